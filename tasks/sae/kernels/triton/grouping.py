"""Entries of all parts grouped by latent, and cut into chunks. The host never asks how many of these there are."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.sae.kernels.triton.jit import ends_on
from tasks.sae.kernels.types import Part

CHUNK = 256
"""Most entries of one latent that one program adds up; 64 to 1,024 took as long within 5% (d 4,096, an H200)."""


class Chunks(NamedTuple):
    """Entries sorted by latent, a latent's in the order of parts and rows, in chunks of at most CHUNK; all int32."""

    order: Tensor
    """Entry at each place, int64: those of the i-th latent are at start[i]:start[i + 1]."""
    start: Tensor
    latent: Tensor
    """Latent of each chunk; the number of latents for those that only fill up the grid."""
    first: Tensor
    """First chunk of each latent, of which each has at least one."""
    slot: Tensor
    """Where the sums of the chunks of each latent with several begin."""
    n_slots: int
    """No fewer than there are such chunks."""
    size: int
    """Most entries of a chunk."""


class Gathered(NamedTuple):
    """What the entries of all parts are sums over; rows of ``x`` and ``gradient`` are the parts', one after the other."""

    latents: Tensor
    values: Tensor
    d_values: Tensor | None
    gradient_rows: Tensor
    """Row of ``gradient`` of each entry, int32."""
    x_rows: Tensor
    """Row of ``x`` of each entry, int32."""
    gradient: Tensor
    x: Tensor
    padded: bool
    """Whether entries of value 0 are none, which get no ``d_value``."""


def chunks_of(latents: Tensor, own: tuple[int, int]) -> Chunks:
    """Sort entries by latent, and cut those of latents from the first to the end of ``own``, counted from 0, into chunks."""
    (low, high), device = own, latents.device
    ordered, order = torch.sort(latents, stable=True)
    ends = torch.arange(low, high + 1, dtype=torch.int32, device=device)
    start = torch.searchsorted(ordered, ends, out_int32=True)
    n_chunks = ((start.diff() + CHUNK - 1) // CHUNK).clamp_(min=1)
    end = n_chunks.cumsum(0, dtype=torch.int32)
    most = len(latents) // CHUNK  # full chunks; beside them each latent has at most one
    numbers = torch.arange(high - low + most, dtype=torch.int32, device=device)
    latent = torch.searchsorted(end, numbers, right=True, out_int32=True)
    of_several = torch.where(n_chunks > 1, n_chunks, 0)
    slot = of_several.cumsum(0, dtype=torch.int32) - of_several
    return Chunks(
        order, start, latent, end - n_chunks, slot, 2 * most, CHUNK
    )  # n > CHUNK entries are at most 2 n / CHUNK chunks


def gathered(parts: Sequence[Part]) -> Gathered:
    """The entries of all parts one after the other.

    Raises:
        ValueError: if some parts have ``d_values`` and some have none.
    """
    one_x = all(part.x is parts[0].x for part in parts)
    x_rows, gradient_rows, x_offset, gradient_offset = [], [], 0, 0
    for part in parts:
        rows = part.entries.rows
        x_rows.append(rows + x_offset if x_offset else rows)
        gradient_rows.append(_gradient_rows(part, rows, gradient_offset))
        x_offset += 0 if one_x else len(part.x)
        gradient_offset += len(part.output_gradient)
    d_values = [part.d_values for part in parts if part.d_values is not None]
    if len(d_values) not in (0, len(parts)):
        raise ValueError("Some parts have d_values and some have none.")
    return Gathered(
        _joined([part.entries.latents for part in parts]),
        _joined([part.entries.values for part in parts]),
        _joined(d_values) if d_values else None,
        _joined(gradient_rows),
        _joined(x_rows),
        _joined([part.output_gradient for part in parts]),
        _joined([part.x for part in parts[: 1 if one_x else None]]),
        any(part.entries.padded for part in parts),
    )


def _gradient_rows(part: Part, rows: Tensor, offset: int) -> Tensor:
    if len(part.bounds) > 1:
        inner = ends_on(rows.device, part.bounds[:-1])
        group = torch.searchsorted(inner, part.entries.latents, right=True, out_int32=True)
        rows = rows + group * part.entries.n
    return rows + offset if offset else rows


def _joined(tensors: list[Tensor]) -> Tensor:
    return (tensors[0] if len(tensors) == 1 else torch.cat(tensors)).detach().contiguous()
