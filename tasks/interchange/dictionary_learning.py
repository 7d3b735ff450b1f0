"""dictionary_learning's folder: ``ae.pt``, a saved dict of plain tensors, and ``config.json``; ``load_dictionary`` reads it.

Its classes differ in orientation and in whether they subtract the decoder's bias from rows first. Exports use those that
keep codes as they are: AutoEncoderNew for ReLU, since AutoEncoder is normalised on loading, and JumpReluAutoEncoder for
all that has thresholds. Layout: dictionary-learning 0.1.0, ``dictionary.py`` and ``trainers/*.py``.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.interchange.named import (
    Shapes,
    checked,
    read_bytes,
    read_settings,
    require_plain,
    setting,
    text,
    to_settings,
)
from tasks.interchange.portable import Kind, Portable, behind_bias, imported, row_norms, with_codes_times
from tasks.sae.belonging import Belonging
from tasks.sae.scaling import Weights
from tasks.storage.base import ObjectStore
from tasks.storage.faults import FAULTS
from tasks.storage.foreign import reading

CONFIG = "config.json"
WEIGHTS = "ae.pt"
_LIBRARY = "dictionary_learning"


@dataclass(frozen=True, slots=True)
class _Class:
    """One of its classes: what it calls our tensors, and how it reads them."""

    kind: Kind
    names: Mapping[str, str]
    """Our names to its own; W_enc and W_dec are the transposes of ours where the library has linear layers."""
    linear: bool
    subtracts: bool
    """Whether rows are encoded less the decoder's bias."""
    also: tuple[str, ...] = ()
    """Numbers beside the weights."""


_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_GATED = {"b_enc": "gate_bias", "b_dec": "decoder_bias", "r_mag": "r_mag", "b_mag": "mag_bias"}
_TOPK = {"b_enc": "encoder.bias", "b_dec": "b_dec"}
_CLASSES = {
    "AutoEncoder": _Class("relu", _LINEAR | {"b_enc": "encoder.bias", "b_dec": "bias"}, True, True),
    "AutoEncoderNew": _Class("relu", _LINEAR | {"b_enc": "encoder.bias", "b_dec": "decoder.bias"}, True, False),
    "GatedAutoEncoder": _Class("gated", _LINEAR | _GATED, True, True),
    "AutoEncoderTopK": _Class("topk", _LINEAR | _TOPK, True, True, ("k", "threshold")),
    "BatchTopKSAE": _Class("jumprelu", _LINEAR | _TOPK, True, True, ("k", "threshold")),
    "MatryoshkaBatchTopKSAE": _Class("jumprelu", _PLAIN, False, True, ("k", "threshold", "group_sizes")),
    "JumpReluAutoEncoder": _Class("jumprelu", _PLAIN | {"threshold": "threshold"}, False, False),
}
_EXPORTED: dict[Kind, str] = {
    "relu": "AutoEncoderNew",
    "topk": "AutoEncoderTopK",
    "jumprelu": "JumpReluAutoEncoder",
    "gated": "GatedAutoEncoder",
}
_AXES = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}


def files(sae: Portable) -> dict[str, bytes]:
    """As ``SAEFormat`` has it."""
    settings, tensors = written(sae)
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, buffer)
    return {WEIGHTS: buffer.getvalue(), CONFIG: to_settings(settings)}


def read(store: ObjectStore) -> Portable:
    """As ``SAEFormat`` has it; of ``ae.pt`` only tensors are read, never code."""
    settings = read_settings(store, CONFIG, _LIBRARY)
    return parsed(settings, _read_tensors(store), f"{store.uri}/{CONFIG}", f"{store.uri}/{WEIGHTS}")


def _read_tensors(store: ObjectStore) -> dict[str, Tensor]:
    where = f"{store.uri}/{WEIGHTS}"
    data = read_bytes(store, WEIGHTS, _LIBRARY)
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise InputError(f"{where} is not a zip archive, which torch.save has written since 1.6; it is damaged or older.")
    with reading(where, "a zip archive"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    if packed:  # which could unpack to any size
        raise InputError(f"{where} holds {packed[0]} compressed, which torch.save never writes.")
    refused = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]  # what torch.load raises
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (refused, AssertionError, zipfile.BadZipFile, *FAULTS) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where} cannot be read as tensors alone, and nothing else is read: {reason}") from None
    plain = isinstance(found, dict) and all(isinstance(name, str) for name in found)
    if not plain or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise InputError(f"{where} holds no dict of tensors, which {_LIBRARY} writes.")
    tensors: dict[str, Tensor] = found
    return tensors


def written(sae: Portable) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An SAE as dictionary_learning's settings and tensors.

    Raises:
        InputError: it rebuilds something else than its input.
    """
    if sae.is_transcoder:
        raise InputError(
            "dictionary_learning has no transcoders: its classes rebuild their input. Use --format saelens, sparsify or "
            "circuit-tracer."
        )
    name = _EXPORTED[sae.kind]
    form = _CLASSES[name]
    weights = behind_bias(sae.weights, sae.weights.b_dec) if form.subtracts else sae.weights
    ours = {own: getattr(weights, own) for own in _PLAIN} | dict(weights.extra)
    tensors = {theirs: _turned(ours[own], form) for own, theirs in form.names.items()}
    if "k" in form.also:  # -1: no threshold was estimated, which leaves encode as it is
        tensors |= {"k": torch.tensor(sae.config.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
    return {"trainer": _trainer(sae, name), "buffer": {"d_submodule": sae.d_in, "io": "out"}}, tensors


def _turned(tensor: Tensor, form: _Class) -> Tensor:
    return tensor.T if form.linear and tensor.ndim == 2 else tensor


def _trainer(sae: Portable, name: str) -> dict[str, Any]:
    belongs = sae.belongs
    layer = re.search(r"\.(\d+)(?=[.:]|$)", belongs.hook or "")
    found = {
        "trainer_class": None,
        "dict_class": name,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "steps": belongs.training.get("steps"),
        "lr": belongs.training.get("lr"),
        "layer": int(layer.group(1)) if layer else None,
        "lm_name": belongs.model,
        "submodule_name": belongs.hook,
        "wandb_name": f"saemill_{sae.config.arch}",
        "device": "cpu",
    }
    return found | ({"k": sae.config.k} if sae.kind == "topk" else {})


def parsed(settings: dict[str, Any], tensors: dict[str, Tensor], where: str, where_tensors: str) -> Portable:
    """dictionary_learning's settings and tensors as an SAE.

    Raises:
        InputError: they are not of one SAE, or of one that saemill has no architecture for.
    """
    trainer = setting(settings, "trainer", dict, where)
    name = setting(trainer, "dict_class", str, where)
    if name not in _CLASSES:
        raise InputError(
            f"{where}: dict_class is {name!r}, for which saemill has no architecture; {', '.join(_CLASSES)} can be imported."
        )
    form = _CLASSES[name]
    named = checked(tensors, _shapes(form), where_tensors, ignored=form.also)
    ours = {own: _turned(named[theirs], form).contiguous() for own, theirs in form.names.items()}
    extra = {own: ours[own] for own in ours if own not in _PLAIN}
    if form.kind == "jumprelu":
        threshold = extra["threshold"] if "threshold" in extra else _number(tensors, "threshold", where_tensors)
        extra["threshold"] = threshold.float().expand(len(ours["b_enc"])).clamp_min(0).clone()  # it rectifies too
    weights = Weights(ours["W_enc"], ours["b_enc"], ours["W_dec"], ours["b_dec"], extra)
    if form.subtracts:
        weights = behind_bias(weights, -weights.b_dec)
    if name == "AutoEncoder":  # load_dictionary gives it unit-norm decoder rows
        weights = with_codes_times(weights, row_norms(weights.W_dec))
    arch, more = _training(name, form, tensors, where_tensors)
    return imported(form.kind, weights, _belongs(trainer, where), arch, **more)


def _shapes(form: _Class) -> Shapes:
    axes = {own: _AXES.get(own, ("d_sae",)) for own in form.names}
    return {
        theirs: axes[own][::-1] if form.linear and len(axes[own]) == 2 else axes[own] for own, theirs in form.names.items()
    }


def _training(name: str, form: _Class, tensors: Mapping[str, Tensor], where: str) -> tuple[str | None, dict[str, Any]]:
    """What it is called here and the settings that it was trained with, as far as its tensors tell."""
    if "k" not in form.also:
        return None, {}
    number = float(_number(tensors, "k", where))
    if not number.is_integer():
        raise InputError(f"{where} has k {number:g}; a whole number was expected.")
    k = {"k": int(number)}
    if "group_sizes" in form.also:
        return "matryoshka", {**k, "prefixes": _prefixes(tensors, where)}
    return ("topk" if name == "AutoEncoderTopK" else "batchtopk"), k


def _number(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    if name not in tensors or tensors[name].numel() != 1:
        raise InputError(f"{where} has no single number {name}.")
    require_plain(name, tensors[name], where)
    found = tensors[name].reshape(())
    if found.is_complex() or not found.float().isfinite():
        raise InputError(f"{where} has {name} {found.item()}; a finite number was expected.")
    return found


def _prefixes(tensors: Mapping[str, Tensor], where: str) -> tuple[int, ...]:
    """Ends of the groups of latents."""
    sizes = tensors.get("group_sizes")
    if sizes is None:
        raise InputError(f"{where} lacks group_sizes.")
    require_plain("group_sizes", sizes, where)
    if sizes.ndim != 1 or sizes.is_floating_point() or sizes.is_complex() or sizes.dtype == torch.bool:
        raise InputError(
            f"{where} has group_sizes of shape {list(sizes.shape)} and {sizes.dtype}; a list of whole numbers was expected."
        )
    return tuple(sizes.long().cumsum(0).tolist())


def _belongs(trainer: Mapping[str, Any], where: str) -> Belonging:
    layer = trainer.get("layer")
    hook = text(trainer, "submodule_name", where) or (str(layer) if type(layer) is int else None)
    return Belonging(model=text(trainer, "lm_name", where), hooks=() if hook is None else (hook,))
