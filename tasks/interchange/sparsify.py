"""sparsify's folder: ``cfg.json`` and ``sae.safetensors``, which ``SparseCoder.load_from_disk`` reads.

codes = the k largest of ReLU((x - b_dec) E^T + b), where a transcoder leaves b_dec out. One latent is a row of E and of
W_dec. Layout: eai-sparsify 1.3.3, ``sparsify/sparse_coder.py``.
"""

from typing import Any

from torch import Tensor

from tasks.errors import InputError
from tasks.interchange.named import Shapes, checked, json_and_safetensors, read_settings, read_tensors, setting
from tasks.interchange.portable import Portable, behind_bias, imported, row_norms
from tasks.sae.belonging import Belonging
from tasks.sae.scaling import Weights
from tasks.storage.base import ObjectStore

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
_LIBRARY = "sparsify"
_UNIT = 1e-3
_SHAPES: Shapes = {
    "encoder.weight": ("num_latents", "d_in"),
    "encoder.bias": ("num_latents",),
    "W_dec": ("num_latents", "d_in"),
    "b_dec": ("d_in",),
}
_SKIP: Shapes = {"W_skip": ("d_in", "d_in")}


def files(sae: Portable) -> dict[str, bytes]:
    """As ``SAEFormat`` has it."""
    return json_and_safetensors(CONFIG, WEIGHTS, *written(sae))


def read(store: ObjectStore) -> Portable:
    """As ``SAEFormat`` has it."""
    where = f"{store.uri}/{CONFIG}"
    settings = read_settings(store, CONFIG, _LIBRARY)
    return parsed(settings, read_tensors(store, WEIGHTS, _LIBRARY), where, f"{store.uri}/{WEIGHTS}")


def written(sae: Portable) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An SAE as sparsify's settings and tensors.

    Raises:
        InputError: it is of another kind than TopK, or rebuilds rows of another width.
    """
    if sae.kind != "topk":
        raise InputError(
            f"sparsify holds only SAEs that keep the k largest latents of each row, not {sae.config.arch}: its files have "
            "no place for thresholds or gates, and its encoder always selects k. Use --format saelens or "
            "dictionary_learning."
        )
    if sae.d_in != sae.d_out:
        raise InputError(
            f"sparsify's decoder has the encoder's width, so it cannot hold a transcoder from {sae.d_in} to {sae.d_out} "
            "features."
        )
    transcode = sae.is_transcoder
    weights = sae.weights if transcode else behind_bias(sae.weights, sae.weights.b_dec)
    tensors = {
        "encoder.weight": weights.W_enc.T,
        "encoder.bias": weights.b_enc,
        "W_dec": weights.W_dec,
        "b_dec": weights.b_dec,
    }
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip
    settings = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "normalize_decoder": bool(((row_norms(weights.W_dec) - 1).abs() < _UNIT).all()),
        "num_latents": sae.d_sae,
        "k": sae.config.k,
        "multi_topk": False,
        "skip_connection": sae.W_skip is not None,
        "transcode": transcode,
        "d_in": sae.d_in,
    }
    return settings, tensors


def parsed(settings: dict[str, Any], tensors: dict[str, Tensor], where: str, where_tensors: str) -> Portable:
    """sparsify's settings and tensors as an SAE.

    Raises:
        InputError: they are not of one SAE, or of one that saemill has no architecture for.
    """
    activation = setting(settings, "activation", str, where, "topk")
    if activation != "topk":
        raise InputError(
            f"{where}: activation is {activation!r}, which keeps one latent of each of k groups; saemill has no such "
            "architecture, only topk can be imported."
        )
    transcode = setting(settings, "transcode", bool, where, False)
    skip = setting(settings, "skip_connection", bool, where, False)
    named = checked(tensors, _SHAPES | (_SKIP if skip else {}), where_tensors)
    weights = Weights(
        named["encoder.weight"].T.contiguous(),
        named["encoder.bias"],
        named["W_dec"],
        named["b_dec"],
        {"W_skip": named["W_skip"]} if skip else {},
    )
    if not transcode:
        weights = behind_bias(weights, -weights.b_dec)
    k = setting(settings, "k", int, where)
    return imported("topk", weights, Belonging(), k=k)
