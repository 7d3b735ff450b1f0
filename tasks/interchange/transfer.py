"""SAEs from saemill to other libraries' folders and back: ``saemill export`` and ``saemill import``."""

import hashlib
from dataclasses import dataclass

from tasks.errors import InputError
from tasks.interchange.formats import FormatName, open_format
from tasks.interchange.portable import Portable
from tasks.sae.checkpoint import CONFIG, WEIGHTS, load, save
from tasks.storage.base import ObjectStore
from tasks.storage.claims import claim
from tasks.storage.objects import open_store

PROVENANCE = "import.json"


@dataclass(frozen=True, slots=True)
class Transferred:
    """An SAE that was exported or imported."""

    uri: str
    """Where it is now."""
    format: FormatName
    arch: str
    kind: str
    """How its pre-activations become codes: relu, topk, jumprelu or gated."""
    d_in: int
    d_sae: int
    files: tuple[str, ...]
    earlier: bool
    """Whether it was there before, and nothing was written now."""


def export_sae(uri: str, name: FormatName, out: str) -> Transferred:
    """Write an SAE to the folder or ``s3://`` prefix ``out`` as another library keeps it; files there are never changed.

    Raises:
        InputError: ``uri`` holds no SAE, the format cannot hold it, or ``out`` has other files of these names.
        ArtifactError: the SAE is damaged.
    """
    sae = open_portable(uri)
    if len(sae.belongs.hooks) > 1:
        raise InputError(
            f"{uri} is a crosscoder of {len(sae.belongs.hooks)} hooks, and {name} has no place for one: its SAEs read one "
            "hook. saemill's own sae.safetensors holds it."
        )
    files = open_format(name).files(sae)
    store = open_store(out)
    there = {key: _there(store, key, data, name) for key, data in files.items()}
    for key, data in files.items():
        if not there[key] and not store.put_if_absent(key, data):
            raise _other(store, key, name)
    return _told(store.uri, name, sae, tuple(files), all(there.values()))


def _there(store: ObjectStore, key: str, data: bytes, name: str) -> bool:
    """Whether the file is there already, checked for all before the first is written."""
    try:
        if store.get(key) == data:
            return True
    except FileNotFoundError:
        return False
    raise _other(store, key, name)


def _other(store: ObjectStore, key: str, name: str) -> InputError:
    return InputError(
        f"{store.uri}/{key} is there already with another content, and an export to {name} changes no file; "
        "name another --out."
    )


def import_sae(source: str, name: FormatName, out: str) -> Transferred:
    """Make an SAE directory at ``out``, which ``tasks.sae.load`` reads, of a folder that another library wrote.

    ``import.json`` there says what it was made of. It comes first, so that of two imports to one place one is refused.

    Raises:
        InputError: ``source`` is no folder of that format or holds what saemill has no architecture for, or ``out`` holds
            something else.
    """
    folder, store = open_store(source), open_store(out)
    sae = open_format(name).read(folder)
    belongs = sae.belongs
    request = {"format": name, "source": folder.uri.rpartition("/")[2], "content": _content(sae)}
    there = claim(store, PROVENANCE, request, (WEIGHTS, CONFIG), "import")
    earlier = {WEIGHTS, CONFIG} <= there.keys()
    if not earlier:
        facts = {
            "hook": belongs.hook,
            "target_hook": belongs.target_hook,
            "model": belongs.model,
            "revision": belongs.revision,
            "imported_from": name,
        }
        save(sae.module(), store.uri, {key: value for key, value in facts.items() if value is not None})
    return _told(store.uri, name, sae, (PROVENANCE, WEIGHTS, CONFIG), earlier)


def _content(sae: Portable) -> str:
    """A hash of all that decides codes and reconstructions."""
    weights = sae.weights
    named = {"W_enc": weights.W_enc, "b_enc": weights.b_enc, "W_dec": weights.W_dec, "b_dec": weights.b_dec, **weights.extra}
    found = hashlib.sha256(f"{sae.kind} {sae.config.arch} {sae.config.k}".encode())
    for key in sorted(named):
        found.update(key.encode() + named[key].numpy().tobytes())
    return f"sha256-{found.hexdigest()}"


def open_portable(uri: str) -> Portable:
    """One of saemill's SAEs.

    Raises:
        InputError: ``uri`` holds no SAE.
        ArtifactError: it is damaged.
    """
    sae = load(uri)
    return Portable(sae.config, sae.weights, sae.belonging)


def _told(uri: str, name: FormatName, sae: Portable, files: tuple[str, ...], earlier: bool) -> Transferred:
    return Transferred(uri, name, sae.config.arch, sae.kind, sae.d_in, sae.d_sae, files, earlier)
