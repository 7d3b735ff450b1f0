"""SAELens' folder: ``cfg.json`` and ``sae_weights.safetensors``, which ``SAE.load_from_disk`` reads.

Tensors are oriented as saemill's. Whether b_dec is subtracted from rows first is a setting, which exports turn off, so that
their weights are saemill's own. Layout: sae-lens 6.54.12, ``sae_lens/saes/*.py``; before 6.0 settings stood in one level.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.interchange.named import (
    Shapes,
    checked,
    json_and_safetensors,
    read_settings,
    read_tensors,
    setting,
    text,
)
from tasks.interchange.portable import Kind, Portable, behind_bias, imported, row_norms, with_codes_times
from tasks.sae.belonging import Belonging
from tasks.sae.scaling import Weights
from tasks.storage.base import ObjectStore

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"
_LIBRARY = "SAELens"
_VERSION = "6.54.12"
_LARGEST = 3e38

_KINDS: dict[str, tuple[Kind, bool]] = {
    "standard": ("relu", False),
    "topk": ("topk", False),
    "jumprelu": ("jumprelu", False),
    "gated": ("gated", False),
    "transcoder": ("relu", False),
    "skip_transcoder": ("relu", True),
    "jumprelu_transcoder": ("jumprelu", False),
    "jumprelu_skip_transcoder": ("jumprelu", True),
}
_TRANSCODERS = {name for name in _KINDS if name.endswith("transcoder")}
_SHAPES: Shapes = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_out"), "b_dec": ("d_out",)}
_SKIP: Shapes = {"W_skip": ("d_out", "d_in")}
_BY_KIND: dict[Kind, Shapes] = {
    "relu": {"b_enc": ("d_sae",)},
    "topk": {"b_enc": ("d_sae",)},
    "jumprelu": {"b_enc": ("d_sae",), "threshold": ("d_sae",)},
    "gated": {"b_gate": ("d_sae",), "r_mag": ("d_sae",), "b_mag": ("d_sae",)},
}
# Why rows cannot be normalised as these do: an SAE here has one map for all rows, folded into its weights.
_NORMALISED = {
    "layer_norm": "centres and scales each row by itself",
    "constant_norm_rescale": "scales each row by its own norm",
    "covariance_whitening": "whitens rows by matrices that only SAELens' training checkpoints have, which it folds on save",
}


def files(sae: Portable) -> dict[str, bytes]:
    """As ``SAEFormat`` has it."""
    return json_and_safetensors(CONFIG, WEIGHTS, *written(sae))


def read(store: ObjectStore) -> Portable:
    """As ``SAEFormat`` has it, with the factor on rows that training recorded beside the SAE, where it did."""
    settings = read_settings(store, CONFIG, _LIBRARY)
    scale = None
    if settings.get("normalize_activations") == "expected_average_only_in" and store.head(SCALER) is not None:
        scale = read_settings(store, SCALER, _LIBRARY).get("scaling_factor")
    where = f"{store.uri}/{CONFIG}"
    return parsed(settings, read_tensors(store, WEIGHTS, _LIBRARY), where, f"{store.uri}/{WEIGHTS}", scale)


def written(sae: Portable) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An SAE as SAELens' settings and tensors.

    Raises:
        InputError: it is a transcoder of a kind that SAELens lacks.
    """
    weights = sae.weights
    architecture = _architecture(sae)
    tensors = {"W_enc": weights.W_enc, "W_dec": weights.W_dec, "b_dec": weights.b_dec, **weights.extra}
    tensors["b_gate" if sae.kind == "gated" else "b_enc"] = weights.b_enc
    settings: dict[str, Any] = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _metadata(sae),
    }
    if architecture == "topk":
        settings |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    if architecture in _TRANSCODERS:
        settings["d_out"] = sae.d_out
    return settings, tensors


def _architecture(sae: Portable) -> str:
    if not sae.is_transcoder:
        return next(name for name, (kind, _) in _KINDS.items() if kind == sae.kind)
    wanted = (sae.kind, sae.W_skip is not None)
    for name in _TRANSCODERS:
        if _KINDS[name] == wanted:
            return name
    raise InputError(
        f"SAELens has transcoders of ReLU and JumpReLU only, so it cannot hold one of architecture {sae.config.arch}"
        f"{' (sparsify can)' if sae.kind == 'topk' else ''}; batchtopk, jumprelu and l1 would fit."
    )


def _metadata(sae: Portable) -> dict[str, Any]:
    """Hooks are named as modules of the transformers model, which is what SAELens' AutoModelForCausalLM expects."""
    belongs = sae.belongs
    found = {
        "sae_lens_version": _VERSION,
        "sae_lens_training_version": None,
        "training_architecture": sae.config.arch,
        "model_name": belongs.model,
        "model_class_name": "AutoModelForCausalLM",
        # SAELens warns whenever there are any.
        "model_from_pretrained_kwargs": {} if belongs.revision in (None, "main") else {"revision": belongs.revision},
        "hook_name": belongs.hook,
        "hf_hook_name": belongs.hook,
        "hook_head_index": None,
        "neuronpedia_id": None,
    }
    target = belongs.target_hook
    return found | ({"hook_name_out": target, "hf_hook_name_out": target} if target else {})


def parsed(
    settings: Mapping[str, Any], tensors: dict[str, Tensor], where: str, where_tensors: str, scale: object = None
) -> Portable:
    """SAELens' settings and tensors as an SAE; ``scale`` is the factor on rows that its training recorded.

    Raises:
        InputError: they are not of one SAE, or of one that saemill has no architecture for.
    """
    name = _named_architecture(settings, where)
    kind, skip = _KINDS[name]
    shapes = _SHAPES | _BY_KIND[kind] | (_SKIP if skip else {})
    if name not in _TRANSCODERS:
        shapes = {**shapes, "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
    weights = _weights(checked(_without_ones(tensors), shapes, where_tensors))
    weights = _with_scale_folded(weights, settings, where, scale)
    if name not in _TRANSCODERS and setting(settings, "apply_b_dec_to_input", bool, where, True):
        weights = behind_bias(weights, -weights.b_dec)
    if setting(settings, "rescale_acts_by_decoder_norm", bool, where, False):
        weights = with_codes_times(weights, row_norms(weights.W_dec))
    more: dict[str, Any] = {"k": _k(settings, where)} if kind == "topk" else {}
    return imported(kind, weights, _belongs(settings, name, where), **more)


def _named_architecture(settings: Mapping[str, Any], where: str) -> str:
    name = setting(settings, "architecture", str, where, "standard")
    if name == "standard" and (settings.get("activation_fn_str") or settings.get("activation_fn")) == "topk":
        return "topk"  # before 6.0, TopK was a standard SAE with another activation function
    if name not in _KINDS:
        hint = " It is a training checkpoint: save the finished SAE with SAELens." if "batchtopk" in name else ""
        raise InputError(
            f"{where}: architecture is {name!r}, for which saemill has none; {', '.join(_KINDS)} can be imported.{hint}"
        )
    return name


def _without_ones(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old versions wrote a ``scaling_factor`` that scales nothing; any other is refused as unknown."""
    factor = tensors.get("scaling_factor")
    if factor is not None and torch.allclose(factor.float(), torch.ones_like(factor.float())):
        return {name: tensor for name, tensor in tensors.items() if name != "scaling_factor"}
    return tensors


def _weights(named: dict[str, Tensor]) -> Weights:
    b_enc = named["b_gate"] if "b_gate" in named else named["b_enc"]
    extra = {name: tensor for name, tensor in named.items() if name in ("r_mag", "b_mag", "W_skip")}
    if "threshold" in named:
        extra["threshold"] = named["threshold"].clamp_min(0)  # SAELens rectifies too
    return Weights(named["W_enc"], b_enc, named["W_dec"], named["b_dec"], extra)


def _with_scale_folded(weights: Weights, settings: Mapping[str, Any], where: str, scale: object) -> Weights:
    normalised = settings.get("normalize_activations") or "none"
    if normalised == "none":
        return weights
    has_scale = normalised in (True, "expected_average_only_in")
    if has_scale and isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale < _LARGEST:
        return Weights(weights.W_enc * scale, weights.b_enc, weights.W_dec / scale, weights.b_dec / scale, weights.extra)
    why = _NORMALISED.get(str(normalised), f"needs a factor on rows, which SAELens would keep in {SCALER} beside it")
    raise InputError(
        f"{where}: normalize_activations is {reprlib.repr(normalised)[:200]}, which {why}; saemill's SAEs take rows as they "
        "are, so this one cannot be imported."
    )


def _k(settings: Mapping[str, Any], where: str) -> int:
    older = setting(settings, "activation_fn_kwargs", dict, where, {})
    return setting({"k": settings.get("k", older.get("k"))}, "k", int, where)


def _belongs(settings: Mapping[str, Any], name: str, where: str) -> Belonging:
    facts = {**settings, **setting(settings, "metadata", dict, where, {})}
    hook, target = (
        next((found for name in names if (found := text(facts, name, where))), None)
        for names in (("hf_hook_name", "hook_name", "hook_point"), ("hf_hook_name_out", "hook_name_out"))
    )
    target = target if name in _TRANSCODERS else None
    kwargs = setting(facts, "model_from_pretrained_kwargs", dict, where, {})
    return Belonging(
        model=text(facts, "model_name", where),
        revision=text(kwargs, "revision", where),
        hooks=(hook,) if hook else (),
        target_hook=target,
    )
