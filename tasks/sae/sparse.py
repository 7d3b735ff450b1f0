"""The sparse step: selection, decoding, and gradients that touch active latents only.

On CPUs it runs compiled kernels where numba can be imported, elsewhere plain torch. Both give the same to rounding, and
the same bits whatever the number of threads.
"""

import logging
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.sae import reference
from tasks.sae.entries import AdamStep, ByLatent, Compared, Entries, Part, Rows

__all__ = [
    "AdamStep",
    "ByLatent",
    "Entries",
    "Part",
    "Rows",
    "by_latent",
    "compare",
    "decode_groups",
    "decode_rows",
    "keep_largest",
    "pull_back",
    "select_above",
    "select_columns",
    "select_top_k",
]

logger = logging.getLogger(__name__)

_COMPILED_FOR = (torch.bfloat16, torch.float32, torch.float64)


def select_top_k(pre_acts: Float[Tensor, "n d_sae"], k: int, dtype: torch.dtype) -> Entries:
    """The positive ones among the ``k`` largest pre-activations of each row; among ties the choice is free.

    Values come in ``dtype``. A row with a NaN has a NaN among its values.
    """
    return _operations(pre_acts).select_top_k(pre_acts, k, dtype)


def select_columns(pre_acts: Float[Tensor, "n d_sae"], columns: Int[Tensor, "c"], k: int, dtype: torch.dtype) -> Entries:
    """The same among some columns only, such as those of dead latents; ``latents`` are in the numbering of all."""
    return _operations(pre_acts).select_columns(pre_acts, columns, k, dtype)


def select_above(pre_acts: Float[Tensor, "n d_sae"], level: float | Float[Tensor, "d_sae"], dtype: torch.dtype) -> Entries:
    """All pre-activations above ``level``, which is one for all latents or each latent's own, of either sign."""
    return _operations(pre_acts).select_above(pre_acts, level, dtype)


def keep_largest(entries: Entries, rivals: Float[Tensor, "n_parts n k"], part: int) -> Entries:
    """Of a worker's entries those among the ``k`` largest of all ``rivals``, where ``rivals[part]`` are its own, in order.

    Rivals that there are fewer of than k are followed by minus infinity. Of equal ones those of the first parts are kept, or
    others, but on all workers by one choice.
    """
    return _operations(entries.values).keep_largest(entries, rivals, part)


def decode_rows(
    target: Float[Tensor, "n d_out"],
    entries: Entries,
    W_dec: Float[Tensor, "d_sae d_out"],
    weight: Float[Tensor, "g"],
    bounds: tuple[int, ...],
    *,
    pull: bool = True,
) -> Rows:
    """Decode, compare with the target, and pull the gradient of the loss back to the entries' values.

    Args:
        target: what the latents have to rebuild.
        entries: the active latents of each row.
        W_dec: the decoder.
        weight: of each prefix's squared error in the loss.
        bounds: the latents below ``bounds[p]`` are prefix p; the last is d_sae. Residual p is what prefix p leaves over.
        pull: give the gradient on values; else it may be left to ``by_latent``, which needs the same memory anyway.
    """
    return _operations(target).decode_rows(target, entries, W_dec, weight, bounds, pull=pull)


def decode_groups(
    entries: Entries, W_dec: Float[Tensor, "d_sae d_out"], bounds: tuple[int, ...]
) -> Float[Tensor, "g n d_out"]:
    """What the latents between one bound and the next decode to, from 0 on."""
    return _operations(W_dec).decode_groups(entries, W_dec, bounds)


def compare(target: Float[Tensor, "n d_out"], decoded: Float[Tensor, "g n d_out"], weight: Float[Tensor, "g"]) -> Compared:
    """Hold what each group of latents decodes to against what prefixes of the groups have to rebuild."""
    return _operations(target).compare(target, decoded, weight)


def pull_back(
    output_gradient: Float[Tensor, "g_times_n d_out"],
    entries: Entries,
    W_dec: Float[Tensor, "d_sae d_out"],
    bounds: tuple[int, ...],
) -> Float[Tensor, "m"]:
    """The loss's gradient on each entry's value, from that on what its group of latents decodes to (see ``Rows``)."""
    return _operations(W_dec).pull_back(output_gradient, entries, W_dec, bounds)


def by_latent(
    parts: Sequence[Part],
    d_sae: int,
    radial: Float[Tensor, "d_sae"] | None = None,
    bias: Float[Tensor, "d_sae"] | None = None,
    own: tuple[int, int] | None = None,
) -> ByLatent:
    """Group the entries of all parts by latent.

    Args:
        parts: of the sums that the gradients are.
        d_sae: number of latents.
        radial: adds radial[i] * W_dec[i] to the gradient of W_dec[i].
        bias: adds bias[i] to the gradient of b_enc[i].
        own: first and end of the latents to look at, which are numbered from 0 in what is returned; empty: all.
    """
    low, high = own or (0, d_sae)
    radial, bias = (None if given is None else given[low:high] for given in (radial, bias))
    return _operations(parts[0].x).by_latent(parts, (low, high), radial, bias)


@runtime_checkable  # tests execute annotations
class _Operations(Protocol):
    """A module of them; see the functions above."""

    def select_top_k(self, pre_acts: Tensor, k: int, dtype: torch.dtype) -> Entries: ...

    def select_columns(self, pre_acts: Tensor, columns: Tensor, k: int, dtype: torch.dtype) -> Entries: ...

    def select_above(self, pre_acts: Tensor, level: float | Tensor, dtype: torch.dtype) -> Entries: ...

    def keep_largest(self, entries: Entries, rivals: Tensor, part: int) -> Entries: ...

    def decode_rows(
        self, target: Tensor, entries: Entries, W_dec: Tensor, weight: Tensor, bounds: tuple[int, ...], *, pull: bool
    ) -> Rows: ...

    def compare(self, target: Tensor, decoded: Tensor, weight: Tensor) -> Compared: ...

    def pull_back(self, output_gradient: Tensor, entries: Entries, W_dec: Tensor, bounds: tuple[int, ...]) -> Tensor: ...

    def decode_groups(self, entries: Entries, W_dec: Tensor, bounds: tuple[int, ...]) -> Tensor: ...

    def by_latent(
        self, parts: Sequence[Part], own: tuple[int, int], radial: Tensor | None, bias: Tensor | None
    ) -> ByLatent: ...


def _operations(tensor: Tensor) -> _Operations:
    compiled = _compiled() if tensor.device.type == "cpu" and tensor.dtype in _COMPILED_FOR else None
    return compiled or reference


@cache
def _compiled() -> _Operations | None:
    try:
        import_module("numba")
    except ImportError as error:
        logger.info("training steps run without compiled kernels: %s", error)
        return None
    kernels: _Operations = import_module("tasks.sae.kernels")
    return kernels
