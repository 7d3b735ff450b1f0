"""A finished SAE on storage: ``sae.safetensors`` and ``config.json``. Nothing is unpickled."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from tasks.errors import ArtifactError, InputError
from tasks.sae.architectures.registry import architecture
from tasks.sae.belonging import Belonging
from tasks.sae.config import SAEConfig
from tasks.sae.model import SparseAutoencoder
from tasks.sae.scaling import Weights
from tasks.storage.artifacts import MANIFEST, parse_json, read_json, to_json
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store, require
from tasks.storage.paths import shown

WEIGHTS = "sae.safetensors"
CONFIG = "config.json"
FORMAT_VERSION = 1
_NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
_REMEDY = "Train or import the SAE again, to another place."
_WHOLE = ("d_in", "d_sae", "k", "k_start", "aux_k")


def save(sae: SparseAutoencoder, uri: str, provenance: Mapping[str, Any]) -> None:
    """Write weights and configuration below a folder or an s3:// URI, in place of any that are there.

    ``provenance`` goes into config.json beside the settings: hook, model, dtype, summary of the training, ...
    """
    weights = sae.weights
    named = {name: getattr(weights, name) for name in _NAMES} | dict(weights.extra)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    settings = {**provenance, **asdict(sae.config), "format_version": FORMAT_VERSION}
    store = open_store(uri)
    store.put(WEIGHTS, tensors_to_bytes(tensors))
    store.put(CONFIG, to_json(settings))


def load(uri: str, device: str | torch.device = "cpu") -> SparseAutoencoder:
    """The SAE saved below a local folder or an s3:// URI; it knows the model and hook that it belongs to.

    Raises:
        InputError: no SAE is there.
        ArtifactError: one of its files is missing or damaged, or they disagree.
    """
    store = open_store(uri)
    if store.head(CONFIG) is None and store.head(WEIGHTS) is None:
        raise InputError(
            f"There is no SAE at {shown(uri)}: a directory with {WEIGHTS} and {CONFIG} was expected, as saemill train or "
            "saemill import prints it."
        )
    settings = _settings(store)
    config = _config(store, settings)
    weights = _weights(store)
    _require_whole_bytes(store)
    d_in, d_sae = weights.W_enc.shape
    if (config.d_in, config.d_sae) != (d_in, d_sae):
        raise ArtifactError(
            f"{uri}/{CONFIG} says d_in {config.d_in} and d_sae {config.d_sae}, but W_enc in {WEIGHTS} is "
            f"[{d_in}, {d_sae}]. {_REMEDY}"
        )
    needed = [*architecture(config.arch).tensors, *(["W_skip"] if config.skip else [])]
    lacking = [name for name in needed if name not in weights.extra]
    if lacking:
        raise ArtifactError(f"{uri}/{WEIGHTS} lacks {', '.join(lacking)}. {_REMEDY}")
    sae = SparseAutoencoder(config, weights, Belonging.of(settings))
    return sae.requires_grad_(requires_grad=False).to(device)


def _require_whole_bytes(store: ObjectStore) -> None:
    """Compare both files with the manifest that training leaves; an imported SAE has none."""
    manifest = read_json(store.uri, MANIFEST) or {}
    objects = manifest.get("objects")
    for key in (CONFIG, WEIGHTS):
        named = objects.get(key) if isinstance(objects, dict) else None
        sha256 = named.get("sha256") if isinstance(named, dict) else None
        if sha256 is not None and hashlib.sha256(require(store, key)).hexdigest() != sha256:
            raise ArtifactError(f"{store.uri}/{key} is not what {MANIFEST} says: its SHA-256 is another. {_REMEDY}")


def _settings(store: ObjectStore) -> dict[str, Any]:
    where = f"{store.uri}/{CONFIG}"
    try:
        found = parse_json(require(store, CONFIG))
    except ValueError as error:
        raise ArtifactError(f"{where} is damaged: it {error}. {_REMEDY}") from None
    if not isinstance(found, dict) or not {"format_version", "arch"} <= found.keys():
        raise ArtifactError(f"{where} is damaged or of something else: it names no format_version and arch. {_REMEDY}")
    if found["format_version"] != FORMAT_VERSION:
        raise ArtifactError(f"{where} has format_version {found['format_version']!r}; this saemill reads {FORMAT_VERSION}.")
    return found


def _config(store: ObjectStore, settings: Mapping[str, Any]) -> SAEConfig:
    known = {field.name: settings[field.name] for field in fields(SAEConfig) if field.name in settings}
    prefixes = known.get("prefixes")
    try:
        for name in (name for name in _WHOLE if name in known):
            _require_whole(name, known[name])
        if prefixes is not None:
            for end in prefixes:
                _require_whole("prefixes", end)
            known["prefixes"] = tuple(prefixes)
        return SAEConfig(**known)
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{store.uri}/{CONFIG} is damaged: {error}. {_REMEDY}") from None


def _require_whole(name: str, value: object) -> None:
    if value is not None and type(value) is not int:
        raise ValueError(f"{name} is {value!r}, not a whole number")


def _weights(store: ObjectStore) -> Weights:
    where = f"{store.uri}/{WEIGHTS}"
    try:
        found = tensors_from_bytes(require(store, WEIGHTS))
        # Into memory of torch's own alignment: on that of the file's bytes, which changes, products differ in last bits.
        tensors = {name: tensor.float().clone() for name, tensor in found.items() if tensor.is_floating_point()}
    except (SafetensorError, ValueError, RuntimeError, KeyError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArtifactError(f"{where} is damaged: {reason}. {_REMEDY}") from None
    endless = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if endless is not None:
        raise ArtifactError(f"{where} is damaged: {endless} has numbers that are not finite. {_REMEDY}")
    missing = [name for name in _NAMES if name not in tensors]
    if missing:
        raise ArtifactError(f"{where} lacks {', '.join(missing)}. {_REMEDY}")
    shapes = {name: list(tensors[name].shape) for name in _NAMES}
    d_in, d_sae = shapes["W_enc"] if len(shapes["W_enc"]) == 2 else (0, 0)
    d_out = (shapes["b_dec"] or [0])[0]
    fit = {"W_enc": [d_in, d_sae], "b_enc": [d_sae], "W_dec": [d_sae, d_out], "b_dec": [d_out]}
    extra = {name: tensor for name, tensor in tensors.items() if name not in _NAMES}
    per_latent = all(list(tensor.shape) == [d_sae] for name, tensor in extra.items() if name != "W_skip")
    if shapes != fit or not per_latent or ("W_skip" in extra and list(extra["W_skip"].shape) != [d_out, d_in]):
        found = {name: list(tensor.shape) for name, tensor in tensors.items()}
        raise ArtifactError(f"{where} holds tensors that do not fit together: {found}. {_REMEDY}")
    return Weights(**{name: tensors[name] for name in _NAMES}, extra=extra)
