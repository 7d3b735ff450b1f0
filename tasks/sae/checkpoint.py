"""A finished SAE on storage: ``sae.safetensors`` and ``config.json``. Nothing is unpickled."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from tasks.errors import ArtifactError
from tasks.sae.config import SAEConfig
from tasks.sae.model import SparseAutoencoder
from tasks.sae.registry import architecture
from tasks.sae.scaling import Weights
from tasks.store.objects import ObjectStore, open_store, require

WEIGHTS = "sae.safetensors"
CONFIG = "config.json"
FORMAT_VERSION = 1
_NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


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
    store.put(CONFIG, (json.dumps(settings, sort_keys=True, indent=1, allow_nan=False) + "\n").encode())


def load(uri: str, device: str | torch.device = "cpu") -> SparseAutoencoder:
    """The SAE saved below a local folder or an s3:// URI.

    Raises:
        ArtifactError: a file is missing or damaged, or config and weights disagree.
    """
    store = open_store(uri)
    config = _config(store)
    weights = _weights(store)
    d_in, d_sae = weights.W_enc.shape
    if (config.d_in, config.d_sae) != (d_in, d_sae):
        raise ArtifactError(
            f"{uri}/{CONFIG} says d_in {config.d_in} and d_sae {config.d_sae}, but W_enc in {WEIGHTS} is "
            f"[{d_in}, {d_sae}]. Delete {uri} and train again."
        )
    needed = [*architecture(config.arch).tensors, *(["W_skip"] if config.skip else [])]
    lacking = [name for name in needed if name not in weights.extra]
    if lacking:
        raise ArtifactError(f"{uri}/{WEIGHTS} lacks {', '.join(lacking)}. Delete {uri} and train again.")
    return SparseAutoencoder(config, weights).requires_grad_(requires_grad=False).to(device)


def _config(store: ObjectStore) -> SAEConfig:
    try:
        settings = json.loads(require(store, CONFIG))
        version = settings["format_version"]
        known = {field.name for field in fields(SAEConfig)}
        if isinstance(settings.get("prefixes"), list):
            settings["prefixes"] = tuple(settings["prefixes"])
        config = SAEConfig(**{name: value for name, value in settings.items() if name in known})
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{store.uri}/{CONFIG} is damaged: {error}. Delete {store.uri} and train again.") from None
    if version != FORMAT_VERSION:
        raise ArtifactError(f"{store.uri}/{CONFIG} has format_version {version}; this saemill reads {FORMAT_VERSION}.")
    return config


def _weights(store: ObjectStore) -> Weights:
    where = f"{store.uri}/{WEIGHTS}"
    try:
        found = tensors_from_bytes(require(store, WEIGHTS))
        # Into memory of torch's own alignment: on that of the file's bytes, which changes, products differ in last bits.
        tensors = {name: tensor.clone() for name, tensor in found.items()}
    except SafetensorError as error:
        raise ArtifactError(f"{where} is damaged: {error}. Delete {store.uri} and train again.") from None
    missing = [name for name in _NAMES if name not in tensors]
    if missing:
        raise ArtifactError(f"{where} lacks {', '.join(missing)}. Delete {store.uri} and train again.")
    shapes = {name: list(tensors[name].shape) for name in _NAMES}
    d_in, d_sae = shapes["W_enc"] if len(shapes["W_enc"]) == 2 else (0, 0)
    d_out = (shapes["b_dec"] or [0])[0]
    fit = {"W_enc": [d_in, d_sae], "b_enc": [d_sae], "W_dec": [d_sae, d_out], "b_dec": [d_out]}
    extra = {name: tensor for name, tensor in tensors.items() if name not in _NAMES}
    per_latent = all(list(tensor.shape) == [d_sae] for name, tensor in extra.items() if name != "W_skip")
    if shapes != fit or not per_latent or ("W_skip" in extra and list(extra["W_skip"].shape) != [d_out, d_in]):
        found = {name: list(tensor.shape) for name, tensor in tensors.items()}
        raise ArtifactError(f"{where} holds tensors that do not fit together: {found}. Delete {store.uri} and train again.")
    return Weights(**{name: tensors[name] for name in _NAMES}, extra=extra)
