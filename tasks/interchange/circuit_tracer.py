"""circuit-tracer's folder of transcoders: ``layer_<i>.safetensors`` for each layer and one ``config.yaml``.

codes = act(x W_enc^T + b_enc), where act is JumpReLU if there is a threshold and ReLU if not; x_hat = codes W_dec + b_dec
(+ x W_skip^T). A latent is a row of both. An export adds one layer; the library wants all, from 0 to the last.
Layout: circuit-tracer 0.5.0, ``transcoder/single_layer_transcoder.py`` and ``utils/hf_utils.py``.
"""

import re
from typing import Any

import yaml
from torch import Tensor

from tasks.errors import InputError
from tasks.interchange.named import Shapes, checked, read_bytes, read_tensors, setting, text, to_safetensors
from tasks.interchange.portable import Portable, imported
from tasks.sae.belonging import Belonging
from tasks.sae.scaling import Weights
from tasks.storage.base import ObjectStore
from tasks.storage.faults import FAULTS, reason_of

CONFIG = "config.yaml"
_LIBRARY = "circuit-tracer"
_CONFIG_BYTES = 2**20
# 'a: 2001-99-99' and '!!int x' end in a ValueError.
_UNREADABLE: tuple[type[Exception], ...] = (yaml.YAMLError, *FAULTS)
_LAYER = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD = "activation_function.threshold"
_SHAPES: Shapes = {
    "W_enc": ("d_transcoder", "d_model"),
    "b_enc": ("d_transcoder",),
    "W_dec": ("d_transcoder", "d_model"),
    "b_dec": ("d_model",),
}
# Places in a block that its replacement of an MLP knows, in TransformerLens' words, and the modules that they are.
_INPUTS = {
    "mlp:input": "mlp.hook_in",
    "post_attention_layernorm": "mlp.hook_in",
    "pre_feedforward_layernorm": "mlp.hook_in",
    "post_attention_layernorm:input": "hook_resid_mid",
    "pre_feedforward_layernorm:input": "hook_resid_mid",
}
_OUTPUTS = {"mlp": "hook_mlp_out", "post_feedforward_layernorm": "hook_mlp_out"}
_HOOK = re.compile(r".*?\.(?P<layer>\d+)\.(?P<place>.+)")


def files(sae: Portable) -> dict[str, bytes]:
    """As ``SAEFormat`` has it: this layer's file, and the settings that all layers share."""
    layer, settings, tensors = written(sae)
    return {
        f"layer_{layer}.safetensors": to_safetensors(tensors),
        CONFIG: yaml.safe_dump(settings, sort_keys=True).encode(),
    }


def read(store: ObjectStore) -> Portable:
    """As ``SAEFormat`` has it; refuses several layers, and a cross-layer transcoder."""
    settings = _settings(store)
    layers = sorted(info.key for info in store.list() if _LAYER.fullmatch(info.key))
    if len(layers) != 1:
        raise InputError(
            f"{store.uri} holds {len(layers)} files layer_<i>.safetensors, and saemill imports one transcoder at a time; "
            f"copy one of them and {CONFIG} to a folder of their own."
        )
    return parsed(settings, read_tensors(store, layers[0], _LIBRARY), layers[0], f"{store.uri}/{layers[0]}")


def written(sae: Portable) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """A transcoder as circuit-tracer's layer, settings and tensors.

    Raises:
        InputError: it is of another kind than ReLU or JumpReLU, or does not stand in for an MLP.
    """
    if sae.belongs.target_hook is None or sae.belongs.hook is None:
        raise InputError(
            "circuit-tracer replaces MLPs by transcoders, and this SAE rebuilds its own input; train one with "
            "train.target_hook set to the output of an MLP."
        )
    if sae.kind not in ("relu", "jumprelu"):
        raise InputError(
            f"circuit-tracer's files hold ReLU and JumpReLU transcoders; it would read one of architecture "
            f"{sae.config.arch} as ReLU and find other latents active. Train batchtopk, jumprelu or l1 instead."
        )
    if sae.d_in != sae.d_out:
        raise InputError(f"circuit-tracer's transcoders are of one width, not from {sae.d_in} to {sae.d_out} features.")
    layer, settings = _places(sae.belongs)
    weights = sae.weights
    tensors = {"W_enc": weights.W_enc.T, "b_enc": weights.b_enc, "W_dec": weights.W_dec, "b_dec": weights.b_dec}
    if "threshold" in weights.extra:
        tensors[_THRESHOLD] = weights.extra["threshold"]
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip
    return layer, settings, tensors


def _places(belongs: Belonging) -> tuple[int, dict[str, Any]]:
    source, target = (_HOOK.fullmatch((hook or "").removesuffix(":output")) for hook in (belongs.hook, belongs.target_hook))
    read = _inside(source, _INPUTS)
    write = _inside(target, _OUTPUTS)
    if source is None or target is None or source["layer"] != target["layer"] or read is None or write is None:
        raise InputError(
            f"circuit-tracer replaces the MLP of one layer, and {belongs.hook} to {belongs.target_hook} is none that it "
            f"knows; it reads at {', '.join(_INPUTS)} and writes at {', '.join(_OUTPUTS)} of a layer."
        )
    return int(source["layer"]), {
        "model_name": belongs.model,
        "model_kind": "transcoder_set",
        "feature_input_hook": read,
        "feature_output_hook": write,
        "scan": "saemill",
    }


def _inside(hook: re.Match[str] | None, known: dict[str, str]) -> str | None:
    """What circuit-tracer calls a place of a block; an imported transcoder's is in its words already."""
    place = hook["place"] if hook else ""
    return place if place in known.values() else known.get(place)


def _settings(store: ObjectStore) -> dict[str, Any]:
    where = f"{store.uri}/{CONFIG}"
    data = read_bytes(store, CONFIG, _LIBRARY)
    if len(data) > _CONFIG_BYTES:
        raise InputError(f"{where} is {len(data):,} bytes long; some lines of settings were expected.")
    try:
        found = yaml.safe_load(data)
    except _UNREADABLE as error:
        raise InputError(f"{where} is not valid YAML: {reason_of(error)}.") from None
    if not isinstance(found, dict):
        raise InputError(f"{where} holds no mapping of settings.")
    kind = setting(found, "model_kind", str, where, "transcoder_set")
    if kind != "transcoder_set":
        raise InputError(
            f"{where}: model_kind is {kind!r}; a cross-layer transcoder writes to all later layers, for which saemill has "
            "no architecture. Only a transcoder_set can be imported."
        )
    return found


def parsed(settings: dict[str, Any], tensors: dict[str, Tensor], key: str, where: str) -> Portable:
    """circuit-tracer's settings and tensors as a transcoder.

    Raises:
        InputError: they are not of one transcoder.
    """
    jumprelu, skip = _THRESHOLD in tensors, "W_skip" in tensors
    beside: Shapes = {_THRESHOLD: ("d_transcoder",), "W_skip": ("d_model", "d_model")}
    named = checked(tensors, _SHAPES | {name: axes for name, axes in beside.items() if name in tensors}, where)
    extra = {"threshold": named[_THRESHOLD]} if jumprelu else {}
    if skip:
        extra["W_skip"] = named["W_skip"]
    weights = Weights(named["W_enc"].T.contiguous(), named["b_enc"], named["W_dec"], named["b_dec"], extra)
    found = _LAYER.fullmatch(key)
    layer = found.group(1) if found else "?"
    hooks = [f"blocks.{layer}.{text(settings, name, CONFIG)}" for name in ("feature_input_hook", "feature_output_hook")]
    belongs = Belonging(model=text(settings, "model_name", CONFIG), hooks=(hooks[0],), target_hook=hooks[1])
    return imported("jumprelu" if jumprelu else "relu", weights, belongs)
