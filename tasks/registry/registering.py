"""Registering an SAE: what it is and what it was made of, as a version that is never changed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.errors import ArtifactError, InputError
from tasks.registry.content import CONFIG, content_hash, file_hashes, has_files
from tasks.registry.names import require_name
from tasks.registry.records import Signed
from tasks.registry.registry import Registry
from tasks.registry.versions import Parentage, SAEVersion
from tasks.storage.artifacts import identity, read_json, read_manifest, recipe_hash, require_manifest, root_of
from tasks.storage.objects import open_store

_OF_TRAINING = ("fvu", "l0", "dead_fraction", "loss")
_OF_SCORES = ("fvu", "l0", "dead_fraction", "ce_recovered")


def register(
    registry: Registry,
    sae: str,
    signed: Signed,
    *,
    scores: str | None = None,
    started_from: int | None = None,
    tags: Sequence[str] = (),
) -> tuple[SAEVersion, bool]:
    """The version of an SAE, and whether it is new: the same content is the version that it has already.

    Args:
        registry: under whose name.
        sae: URI of a finished SAE, trained or imported.
        signed: who registers it, and when.
        scores: URI of its scores, whose figures become the version's.
        started_from: the version with whose weights its training began. None: the one whose content the SAE's manifest names
            as what it was begun from (``init_from``).
        tags: what it is tagged with from the beginning.

    Raises:
        InputError: there is no SAE, its training is not finished, or the scores are of another.
        ArtifactError: a file of the SAE is not what its manifest says, or a record is damaged.
    """
    for name in tags:
        require_name(name, "The tag")
    uri = open_store(sae).uri
    manifest = _manifest_of(uri)
    hashes = file_hashes(open_store(uri))
    _require_whole(uri, manifest, hashes)
    settings = read_json(uri, CONFIG) or {}
    made = SAEVersion(
        version=1,
        sae=uri.removeprefix(f"{registry.root}/"),  # below the root as seen from it, so that the storage can be moved
        content=content_hash(hashes),
        config=recipe_hash(manifest.get("recipe") or settings),
        parents=_parents(uri, manifest, settings),
        metrics=_metrics(uri, manifest, scores),
        tags=tuple(tags),
        by=signed.by,
        when=signed.when,
    )
    while True:
        there = [version for _, version in registry.versions.all()]
        same = next(
            (version for version in there if version.content == made.content and _is_there(registry, version, made)), None
        )
        if same is not None:
            return same, False
        number = 1 + max((version.version for version in there), default=0)
        began = started_from or _begun_from(manifest, there)
        parents = made.parents.model_copy(update={"champion": began})
        numbered = made.model_copy(update={"version": number, "parents": parents})
        if registry.versions.append(number, numbered):
            return numbered, True


def _is_there(registry: Registry, version: SAEVersion, made: SAEVersion) -> bool:
    """Whether a version of this content has files; those of a copy elsewhere may have been removed since."""
    return version.sae == made.sae or has_files(registry.uri_of(version))


def _manifest_of(sae: str) -> dict[str, Any]:
    """What a training says of its SAE; an imported one has nothing of the kind.

    Raises:
        InputError: the training goes on, or this is a directory of something else.
    """
    found = read_manifest(sae)
    if found is None:
        if next(open_store(sae).list("checkpoints/"), None) is not None:
            raise InputError(f"The training of {sae} is not finished. Give the command again that began it.")
        return {}
    if found.get("stage", "saes") != "saes":
        raise InputError(
            f"{sae} is a directory of stage {found['stage']}; an SAE's was expected, as saemill train prints it."
        )
    return found


def _require_whole(sae: str, manifest: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Hold the files against the manifest.

    Raises:
        ArtifactError: one is not what it says.
    """
    objects = manifest.get("objects")
    for key, found in hashes.items():
        named = objects.get(key) if isinstance(objects, dict) else None
        if isinstance(named, dict) and named.get("sha256") != found:
            raise ArtifactError(
                f"{sae}/{key} is not what its manifest says. Train or import the SAE again, to another place."
            )


def _begun_from(manifest: Mapping[str, Any], there: Sequence[SAEVersion]) -> int | None:
    """The version whose content a warm start says that it began with."""
    content = manifest.get("init_from")
    return next((version.version for version in there if content is not None and version.content == content), None)


def _parents(sae: str, manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> Parentage:
    activations = _text(manifest.get("activations"))
    tokens = None if activations is None else _text(_activations_manifest(sae, activations).get("tokens"))
    model, revision = (_text(settings.get(name)) for name in ("model", "revision"))
    return Parentage(activations=activations, tokens=tokens, model=model, revision=revision)


def _activations_manifest(sae: str, activations: str) -> Mapping[str, Any]:
    """What the activations of this hash say of themselves, where they lie below the root of the SAE."""
    folder = open_store(f"{root_of(sae)}/activations")
    found = next((name for name in sorted(folder.names()) if identity(f"{folder.uri}/{name}") == activations), None)
    return {} if found is None else read_manifest(f"{folder.uri}/{found}") or {}


def _metrics(sae: str, manifest: Mapping[str, Any], scores: str | None) -> dict[str, float]:
    training = manifest.get("training")
    found = _numbers(training if isinstance(training, dict) else {}, _OF_TRAINING, "training_")
    if scores is None:
        return found
    uri = open_store(scores).uri
    of = require_manifest(uri)
    if of.get("stage") != "scores" or of.get("sae") != identity(sae):
        raise InputError(f"{uri} holds no scores of {sae}. saemill score prints where they are.")
    return found | _numbers(read_json(uri, "summary.json") or {}, _OF_SCORES)


def _numbers(values: Mapping[str, Any], names: Sequence[str], prefix: str = "") -> dict[str, float]:
    known = {f"{prefix}{name}": values[name] for name in names if type(values.get(name)) in (int, float)}
    return {name: float(value) for name, value in known.items() if math.isfinite(value)}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
