"""Entries of all parts grouped by latent: a counting sort, so that within a latent they keep the order of parts and rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple, no_type_check

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.sae.kernels.numba.jit import kernel
from tasks.sae.kernels.types import AddedGradients, Part


class Grouped(NamedTuple):
    """What the gradients of each latent are sums over; d_in, d_out and the rows of x and gradient are the parts'."""

    start: NDArray[np.int64]
    """Entries of the i-th latent are start[i]:start[i + 1]."""
    values: NDArray[Any]
    d_values: NDArray[Any]
    gradient_rows: NDArray[np.int32]
    """Row of ``gradient`` of each entry."""
    x_rows: NDArray[np.int32]
    """Row of ``x`` of each entry."""
    gradient: NDArray[Any]
    x: NDArray[Any]
    radial: NDArray[Any]
    """How often the decoder row of each latent is added to its gradient; empty for never."""
    bias: NDArray[Any]
    """What is added to the gradient of each latent's bias; empty for nothing."""
    pulls: bool
    """Whether ``d_values`` are still to be found, as products of decoder rows and rows of ``gradient``."""


def grouped(parts: Sequence[Part], own: tuple[int, int], added: AddedGradients) -> Grouped:
    """Sort the entries of all parts by latent; those of latents from the first to the end of ``own`` only."""
    low, high = own
    start = np.zeros(high - low + 1, np.int64)
    for part in parts:
        _count(part.entries.latents.numpy(), low, high, start)
    np.cumsum(start, out=start)
    size, dtype = int(start[-1]), parts[0].x.numpy().dtype
    sums = np.empty(size, dtype), np.empty(size, dtype), np.empty(size, np.int32), np.empty(size, np.int32)
    one_x = all(part.x is parts[0].x for part in parts)
    place, x_offset, gradient_offset = start[:-1].copy(), 0, 0
    for part in parts:
        coded = part.entries.latents.numpy(), part.entries.values.detach().numpy(), _array(part.d_values, dtype)
        rows = part.entries.start.numpy(), np.array(part.bounds), low, high
        _scatter(*coded, *rows, x_offset, gradient_offset, place, *sums)
        x_offset += 0 if one_x else len(part.x)
        gradient_offset += len(part.output_gradient)
    gradient = _joined([part.output_gradient for part in parts])
    x = _joined([part.x for part in parts[: 1 if one_x else None]])
    pulls = [part.d_values is None for part in parts]
    if any(pulls) and not all(pulls):
        raise ValueError("Some parts have d_values and some have none.")
    return Grouped(start, *sums, gradient, x, _array(added.radial, dtype), _array(added.bias, dtype), all(pulls))


def _array(tensor: torch.Tensor | None, dtype: Any) -> NDArray[Any]:
    array: NDArray[Any] = np.empty(0, dtype) if tensor is None else tensor.detach().numpy()
    return array


def _joined(tensors: list[torch.Tensor]) -> NDArray[Any]:
    array: NDArray[Any] = (tensors[0] if len(tensors) == 1 else torch.cat(tensors)).detach().contiguous().numpy()
    return array


@kernel
@no_type_check
def _count(latents: Any, low: Any, high: Any, start: Any) -> None:
    """Add the number of entries of latent low + i to start[i + 1]."""
    for latent in latents:
        if low <= latent < high:
            start[latent - low + 1] += 1


@kernel
@no_type_check
def _scatter(
    latents: Any,
    values: Any,
    d_values: Any,
    row_start: Any,
    bounds: Any,
    low: Any,
    high: Any,
    x_offset: Any,
    gradient_offset: Any,
    place: Any,
    to_values: Any,
    to_d_values: Any,
    to_gradient_rows: Any,
    to_x_rows: Any,
) -> None:
    """Move each entry to the next free place of its latent; ``place`` is moved on."""
    n = len(row_start) - 1
    for r in range(n):
        for e in range(row_start[r], row_start[r + 1]):
            latent, group = latents[e], 0
            if latent < low or latent >= high:
                continue
            while latent >= bounds[group]:
                group += 1
            to = place[latent - low]
            place[latent - low] += 1
            to_values[to] = values[e]
            if len(d_values) > 0:
                to_d_values[to] = d_values[e]
            to_gradient_rows[to], to_x_rows[to] = gradient_offset + group * n + r, x_offset + r
