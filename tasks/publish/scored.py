"""What is known of an SAE that is to be published: its files, its scores, and the directories that those were made of."""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tasks.errors import ArtifactError, InputError
from tasks.interchange.portable import Portable
from tasks.interchange.transfer import open_portable
from tasks.storage.artifacts import MANIFEST, identity, read_json, read_manifest, require_manifest, root_of, to_json
from tasks.storage.faults import FAULTS, reason_of
from tasks.storage.objects import open_store, require
from tasks.storage.paths import shown

Json = dict[str, Any]

LATENTS = ("latent", "density", "n_active", "max_activation", "histogram", "promoted", "suppressed", "neighbours")
EXAMPLES = ("latent", "rank", "kind", "activation", "sequence", "position", "tokens", "token_activations", "peak")
_WEIGHTS, _CONFIG, _CURVE, _IMPORT = "sae.safetensors", "config.json", "curve.parquet", "import.json"
_TOLERANCE = 1e-3
_HASH = re.compile(r"[0-9a-f]{12}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PACKAGE = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class ScoredSae:
    """One SAE with its scores."""

    id: str
    """Its folder in what is published, made of its hook."""
    sae: Portable
    content: str
    """SHA-256 of its weights and settings."""
    files: Json
    """Name to bytes, of what its directory holds for those who load it."""
    settings: Json
    """Of ``config.json``."""
    trained: Json
    """Its manifest; empty where it was imported."""
    scored: Json
    """Manifest of the scores."""
    summary: Json
    latents: pa.Table
    """A row per latent, in their order."""
    examples: pa.Table
    """The contexts: by latent, the strongest before those of lower quantiles, by rank."""
    tokens: str | None
    """URI of the tokens that were scored, where it is still there."""
    activations: Json
    """Manifest of the activations, where it is still there."""

    @property
    def layer(self) -> int | None:
        """The number in its hook's name."""
        return self.sae.belongs.layer


def hub_id(model: str | None) -> str | None:
    """The model's id on the hub, if its name is one."""
    return model if model is not None and _HUB_ID.fullmatch(model) else None


def read_scored(saes: Sequence[str], scores: Sequence[str], model: str | None) -> tuple[ScoredSae, ...]:
    """SAEs and their scores, each SAE with the scores that say they are of it.

    Args:
        saes: URIs of SAE directories.
        scores: URIs of as many scores, in any order.
        model: the name under which others find the model, in place of the one that the SAEs state.

    Raises:
        InputError: an SAE has no scores here, or names its model by a place of one machine.
        ArtifactError: a directory is unfinished or damaged.
    """
    uris = [open_store(uri).uri for uri in saes]
    if len(set(uris)) < len(uris) or len(scores) != len(uris):
        raise InputError(
            f"{len(uris)} SAEs and {len(scores)} scores were given; as many scores were expected, and each SAE once. "
            "Separate several by commas."
        )
    stated = {open_store(uri).uri: _scores_manifest(open_store(uri).uri) for uri in scores}
    chosen = _matched(uris, stated)
    found = [_read(uri, chosen[uri], stated[chosen[uri]], model) for uri in uris]
    return tuple(replace(each, id=name) for each, name in zip(found, _ids(found), strict=True))


def _scores_manifest(uri: str) -> Json:
    manifest = require_manifest(uri)
    if manifest.get("stage") != "scores":
        raise InputError(f"{uri} holds no scores; --scores takes a directory that saemill score prints.")
    return manifest


def _matched(saes: Sequence[str], stated: Mapping[str, Json]) -> dict[str, str]:
    """The scores of each SAE: those that name it by its recipe's hash or URI.

    An SAE that was imported has no hash and may have been moved since: it takes the scores of a URI where no SAE is now,
    and its weights tell whether they are its own (``_require_own``).
    """
    named = {identity(sae): sae for sae in saes}
    of = {uri: str(manifest.get("sae")) for uri, manifest in stated.items()}
    found = {named[sae]: uri for uri, sae in of.items() if sae in named}
    moved = [
        uri
        for uri, sae in of.items()
        if sae not in named and not _HASH.fullmatch(sae) and open_store(sae).head(_CONFIG) is None
    ]
    for sae in saes:
        if sae not in found and moved and not _HASH.fullmatch(identity(sae)):
            if len(moved) > 1:
                raise InputError(
                    f"Which scores are of the SAE at {sae} cannot be told: {' and '.join(moved)} are of SAEs that are no "
                    "longer where they were. Publish one at a time."
                )
            found[sae] = moved.pop()
        if sae not in found:
            raise InputError(f"None of the scores given is of the SAE at {sae}; score it, and name them with --scores.")
    return found


def _read(uri: str, scores: str, scored: Json, model: str | None) -> ScoredSae:
    sae, store = open_portable(uri), open_store(uri)
    settings, trained = read_json(uri, _CONFIG) or {}, read_manifest(uri) or {}
    stated = model or sae.belongs.model
    if stated is not None and not _is_public(stated):
        raise InputError(
            f"The SAE at {uri} names its model {shown(stated)}, which is a place of one machine; say under which name "
            "others find it, with --model ORG/NAME."
        )
    summary = read_json(scores, "summary.json")
    if summary is None or summary.get("d_sae") != sae.d_sae:
        width = "no summary.json" if summary is None else f"d_sae {summary.get('d_sae')}"
        raise InputError(f"The scores at {scores} have {width}, but the SAE at {uri} has {sae.d_sae} latents.")
    latents = _latents(scores, sae.d_sae)
    _require_own(uri, sae, scores, latents)
    files = {key: require(store, key) for key in (_WEIGHTS, _CONFIG)}
    content = hashlib.sha256(b"".join(files.values())).hexdigest()
    if model is not None and model != sae.belongs.model:
        settings = {**settings, "model": model}
        trained = _with_settings(trained, files, settings)
        sae = replace(sae, belongs=replace(sae.belongs, model=model))
    tokens = _beside(scores, "tokens", scored.get("tokens"))
    activations = _beside(scores, "activations", scored.get("activations"))
    return ScoredSae(
        id="",
        sae=sae,
        content=content,
        files=files | dict(_kept_with_it(uri, trained)),
        settings=settings,
        trained=trained,
        scored=scored,
        summary=summary,
        latents=latents,
        examples=_examples(scores),
        tokens=tokens,
        activations={} if activations is None else require_manifest(activations),
    )


def _require_own(uri: str, sae: Portable, scores: str, latents: pa.Table) -> None:
    """Scores tell norms and cosines of each latent's weights, so those of another SAE, or in another order, are found.

    Not of a crosscoder's: they are told in units of scaled rows.
    """
    if len(sae.belongs.hooks) > 1:
        return
    encoder, decoder = sae.weights.W_enc.T, sae.weights.W_dec
    own = {"decoder_norm": torch.linalg.vector_norm(decoder, dim=1)}
    if encoder.shape == decoder.shape:
        own["encoder_decoder_cosine"] = torch.nn.functional.cosine_similarity(encoder, decoder, dim=1)
    for name, values in own.items():
        if name not in latents.column_names or latents[name].null_count:
            continue
        apart = np.abs(latents[name].to_numpy() - values.numpy())
        worst = int(apart.argmax())
        if not apart[worst] <= _TOLERANCE * max(1.0, float(values[worst].abs())):
            raise InputError(
                f"The scores at {scores} are of other weights than those of the SAE at {uri}: of latent {worst} they have "
                f"{name} {latents[name][worst].as_py():.4g}, its weights {float(values[worst]):.4g}. Score this SAE."
            )


def _is_public(model: str) -> bool:
    """Whether it is a hub id or a package, not a file or folder of this machine."""
    return not model.endswith(".gguf") and (_HUB_ID.fullmatch(model) or _PACKAGE.fullmatch(model)) is not None


def _with_settings(trained: Json, files: Json, settings: Json) -> Json:
    """The manifest as it must be beside other settings, which are put in place."""
    files[_CONFIG] = to_json(settings)
    if not trained:
        return trained
    sha256 = hashlib.sha256(files[_CONFIG]).hexdigest()
    return {**trained, "objects": {**trained.get("objects", {}), _CONFIG: {"sha256": sha256}}}


def _kept_with_it(uri: str, trained: Json) -> Iterator[tuple[str, bytes]]:
    store = open_store(uri)
    for key in (_CURVE, _IMPORT):
        if store.head(key) is not None:
            yield key, store.get(key)
    if trained:
        yield MANIFEST, to_json(trained)


def _beside(scores: str, stage: str, stated: object) -> str | None:
    """The directory of another stage that the scores name by its hash, or by its URI; None where it is gone."""
    if not isinstance(stated, str):
        return None
    if not _HASH.fullmatch(stated):
        return stated if read_manifest(stated) is not None else None
    folder = f"{root_of(scores)}/{stage}"
    found = (f"{folder}/{name}" for name in sorted(open_store(folder).names()) if name.endswith(f"-{stated}"))
    return next((uri for uri in found if read_manifest(uri) is not None), None)


def _latents(scores: str, d_sae: int) -> pa.Table:
    table = _table(scores, "latents.parquet", LATENTS).sort_by("latent")
    if table["latent"].to_pylist() != list(range(d_sae)):
        raise ArtifactError(f"{scores}/latents.parquet does not number {d_sae} latents 0, 1, 2... Score again.")
    return table


def _examples(scores: str) -> pa.Table:
    table = _table(scores, "examples.parquet", EXAMPLES)
    try:
        group = [0 if kind == "top" else int(kind.removeprefix("q")) for kind in table["kind"].to_pylist()]
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"{scores}/examples.parquet holds an unknown kind ({error}). Score again.") from None
    order = [("latent", "ascending"), ("group", "ascending"), ("rank", "ascending")]
    return table.append_column("group", pa.array(group, pa.int32())).sort_by(order)


def _table(uri: str, key: str, columns: Sequence[str]) -> pa.Table:
    try:
        table = pq.read_table(io.BytesIO(require(open_store(uri), key)))
    except FAULTS as error:
        raise ArtifactError(f"{uri}/{key} is not readable Parquet ({reason_of(error)}). Score again.") from None
    lacking = [name for name in columns if name not in table.column_names]
    if lacking:
        raise ArtifactError(f"{uri}/{key} lacks the columns {', '.join(lacking)}. Score again.")
    return table


def _ids(found: Sequence[ScoredSae]) -> list[str]:
    """A folder's name for each: its hooks, and where several read the same, width and content too."""
    hooks = [_slug("-".join(each.sae.belongs.hooks) or "sae") for each in found]
    return [
        hook if hooks.count(hook) == 1 else f"{hook}-{each.sae.config.arch}-{each.sae.d_sae}-{each.content[:6]}"
        for hook, each in zip(hooks, found, strict=True)
    ]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "sae"
