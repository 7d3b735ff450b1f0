"""Selection of active latents, one row at a time."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tasks.sae.kernels.numba.above import rows_above
from tasks.sae.kernels.numba.threads import share
from tasks.sae.kernels.numba.top import REGISTER, top_rows
from tasks.sae.kernels.torch_reference import rounded_down
from tasks.sae.kernels.types import Entries

_BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
_CHUNK = 64  # rows


class Selection:
    """The operations of a backend that find active latents."""

    def select_top_k(self, pre_acts: Float[Tensor, "n d_sae"], k: int, dtype: torch.dtype) -> Entries:
        """The positive ones among the ``k`` largest pre-activations of each row; among ties the choice is free."""
        return _select_top(pre_acts, np.empty(0, np.int32), min(k, pre_acts.shape[1]), dtype)

    def select_columns(
        self, pre_acts: Float[Tensor, "n d_sae"], columns: Int[Tensor, "c"], k: int, dtype: torch.dtype
    ) -> Entries:
        """The largest among some columns only; entries name latents, not places among these columns."""
        return _select_top(pre_acts, columns.int().numpy(), min(k, len(columns)), dtype)

    def select_above(
        self, pre_acts: Float[Tensor, "n d_sae"], level: float | Float[Tensor, "d_sae"], dtype: torch.dtype
    ) -> Entries:
        """All pre-activations above ``level``, which is one for all latents or each latent's own, of either sign."""
        n = len(pre_acts)
        rows = bits_of(pre_acts) if pre_acts.dtype == torch.bfloat16 else pre_acts.detach().contiguous().numpy()
        levels = _levels(level, pre_acts)
        counts = np.zeros(n, np.int64)
        chunks: dict[int, tuple[NDArray[Any], NDArray[np.int32]]] = {0: (np.empty(0, rows.dtype), np.empty(0, np.int32))}

        def work(low: int, high: int) -> None:
            chunks[low] = rows_above(rows, levels, counts, low, high)

        if pre_acts.numel():
            share(work, n, _CHUNK)
        numbers, latents = (np.concatenate(arrays) for arrays in zip(*(chunks[low] for low in sorted(chunks)), strict=True))
        return Entries(_floats(numbers, pre_acts, dtype), torch.from_numpy(latents), _start(counts))


def _select_top(pre_acts: Tensor, among: NDArray[np.int32], k: int, dtype: torch.dtype) -> Entries:
    """Among all columns if none are named."""
    n = len(pre_acts)
    bits, infinity = bits_of(pre_acts), infinity_of(pre_acts.dtype)
    numbers, latents = np.empty((n, k), bits.dtype), np.empty((n, k), np.int32)
    counts = np.zeros(n, np.int64)
    if numbers.size:
        n_groups = _n_groups(k, bits.itemsize)
        share(lambda low, high: top_rows(bits, among, infinity, n_groups, numbers, latents, counts, low, high), n, _CHUNK)
    if (counts < k).any():
        kept = np.arange(k) < counts[:, None]
        numbers, latents = numbers[kept], latents[kept]
    return Entries(_floats(numbers.reshape(-1), pre_acts, dtype), torch.from_numpy(latents.reshape(-1)), _start(counts))


def bits_of(pre_acts: Tensor) -> NDArray[Any]:
    """Numbers as the integers of the same bits."""
    array: NDArray[Any] = pre_acts.detach().contiguous().view(_BITS[pre_acts.dtype]).numpy()
    return array


def _levels(level: float | Tensor, pre_acts: Tensor) -> NDArray[Any]:
    """One for each latent, in float32 where pre-activations are in bfloat16."""
    exact = rounded_down(level, pre_acts).expand(pre_acts.shape[1])
    array: NDArray[Any] = (exact.float() if exact.dtype == torch.bfloat16 else exact).detach().contiguous().numpy()
    return array


def _floats(bits: NDArray[Any], like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(bits).view(like.dtype).to(dtype)


def infinity_of(dtype: torch.dtype) -> int:
    """The integer of infinity's bits."""
    return int(torch.tensor(float("inf"), dtype=dtype).view(_BITS[dtype]))


def _start(counts: NDArray[np.int64]) -> Tensor:
    start = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=start[1:])
    return torch.from_numpy(start)


def _n_groups(k: int, itemsize: int) -> int:
    """Number of groups of columns, a multiple of what a register holds.

    With 8 k groups about a sixteenth of the largest k share a group with another one.
    """
    lanes = REGISTER // itemsize
    return lanes * -(-8 * k // lanes)
