"""Selection of active latents. How many there are is known on the device only, which the host asks for nothing.

Entries are as many as there can be: where fewer are found, which is rare, zeros fill them up. Only ``above`` asks.
"""

from typing import Any

import torch
from torch import Tensor

from tasks.sae.kernels.torch_reference import rounded_down
from tasks.sae.kernels.triton.above import count_above, write_above
from tasks.sae.kernels.triton.batch import count_digits, count_reaching, settle_digit, write_reaching
from tasks.sae.kernels.triton.jit import accumulator, block_of, launch
from tasks.sae.kernels.triton.keys import PRECISIONS, Precision
from tasks.sae.kernels.triton.top import top_of_rows
from tasks.sae.kernels.types import Entries, no_entries

_BLOCK = 512
"""Columns at once, and groups: with 512 a sketch took .64 ms of 8,192 rows of 24,576 columns (an H200, bfloat16)."""
_MOST_GROUPED = 2048
"""The largest k for which groups and candidates stay in registers."""
_DIGIT = 8
"""Bits of a key that one look at all numbers settles; of the last digit there are 7."""
_PROGRAMS = 1024
"""That share a look at all numbers, a few for each multiprocessor: each adds its counts to those of all."""


def top_of(pre_acts: Tensor, columns: Tensor | None, k: int, dtype: torch.dtype) -> Entries:
    """The positive ones among the ``k`` largest of each row, among all columns if none are named."""
    n, precision = len(pre_acts), PRECISIONS[pre_acts.dtype]
    if n == 0 or k == 0:
        return no_entries(n, pre_acts, dtype)
    bits = pre_acts.detach().contiguous().view(precision.bits)
    values, latents = _filling((n, k), bits, dtype)
    is_grouped = k <= _MOST_GROUPED
    room = block_of(max(4 * k, 128)) if is_grouped else 1
    block = block_of(max(4 * k, _BLOCK)) if is_grouped else _BLOCK
    room_keys = torch.empty(n, room, dtype=torch.int64 if precision.n_bits == 63 else torch.int32, device=bits.device)
    launch(
        top_of_rows,
        (n,),
        bits,
        columns,
        room_keys,
        torch.empty(n, room, dtype=torch.int32, device=bits.device),
        values,
        latents,
        pre_acts.shape[1] if columns is None else len(columns),
        pre_acts.shape[1],
        k,
        GROUPED=is_grouped,
        ROOM=room,
        BLOCK=block,
        INFINITY=precision.infinity,
        N_BITS=precision.n_bits,
        KEY=precision.key,
        num_warps=4 if block <= 1024 else 8,
    )
    return Entries(values.view(-1), latents.view(-1), torch.arange(0, n * k + 1, k, device=bits.device), padded=True)


def _filling(shape: tuple[int, ...], bits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values and latents of nothing: the last latent, so that a row stays in the order of latents."""
    values = torch.zeros(shape, dtype=dtype, device=bits.device)
    return values, torch.full(shape, bits.shape[1] - 1, dtype=torch.int32, device=bits.device)


def above(pre_acts: Tensor, level: float | Tensor, dtype: torch.dtype) -> Entries:
    """All pre-activations above ``level``, which is one for all latents or each latent's own."""
    n, width = pre_acts.shape
    rows, levels = pre_acts.detach().contiguous(), rounded_down(level, pre_acts)
    given = rows, levels.detach().contiguous()
    counts = torch.empty(n, dtype=torch.int32, device=rows.device)
    how = {"OWN": levels.ndim == 1, "BLOCK": block_of(width, 1024), "KIND": accumulator(rows.dtype), "num_warps": 4}
    launch(count_above, (n,), *given, counts, width, width, **how)
    start = _start(counts)
    n_found = int(start[-1])  # the host waits here: nothing says how many are above a level
    values = torch.empty(n_found, dtype=dtype, device=rows.device)
    latents = torch.empty(n_found, dtype=torch.int32, device=rows.device)
    launch(write_above, (n,), *given, start, values, latents, width, width, **how)
    return Entries(values, latents, start)


def of_batch(pre_acts: Tensor, count: int, dtype: torch.dtype) -> Entries:
    """The positive ones among the ``count`` largest of all rows; of equals, those of the first rows and columns."""
    n, width = pre_acts.shape
    if n == 0 or count == 0:
        return no_entries(n, pre_acts, dtype)
    precision = PRECISIONS[pre_acts.dtype]
    bits = pre_acts.detach().contiguous().view(precision.bits)
    how = {"INFINITY": precision.infinity, "N_BITS": precision.n_bits, "KEY": precision.key, "num_warps": 4}
    level, n_ties = _level_of(bits, count, precision, how)
    block = block_of(width, 1024)
    counts = torch.empty(2, n, dtype=torch.int32, device=bits.device)
    launch(count_reaching, (n,), bits, level, counts, n, width, BLOCK=block, **how)
    above, ties = counts.long()
    kept_ties = (n_ties - ties.cumsum(0) + ties).clamp_(min=0).minimum(ties)
    start = _start(above + kept_ties)
    values, latents = _filling((min(count, n * width),), bits, dtype)
    launch(write_reaching, (n,), bits, level, start, kept_ties, values, latents, width, BLOCK=block, **how)
    start[-1] = len(values)  # what fills up is the last row's
    return Entries(values, latents, start, padded=True)


def _level_of(bits: Tensor, rank: int, precision: Precision, how: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The key of the number of this rank, the first being 1, and how many of its equals are of this rank or a lower one."""
    device, n_numbers = bits.device, bits.numel()
    level = torch.zeros(1, dtype=torch.int64 if precision.n_bits == 63 else torch.int32, device=device)
    left = torch.full((1,), rank, dtype=torch.int64, device=device)
    ends = range(precision.n_bits, 0, -_DIGIT)  # a digit's highest bit is below its end
    counts = torch.zeros(len(ends), 1 << _DIGIT, dtype=torch.int64, device=device)
    block = block_of(n_numbers, 1024)
    n_blocks = -(-n_numbers // block)
    span = -(-n_blocks // _PROGRAMS) * block
    for end, of_digit in zip(ends, counts, strict=True):
        digit = min(end, _DIGIT)
        at = {"SHIFT": end - digit, "DIGIT": digit}
        launch(count_digits, (-(-n_numbers // span),), bits, level, of_digit, n_numbers, span, BLOCK=block, **at, **how)
        launch(settle_digit, (1,), of_digit, level, left, **at, KEY=precision.key, num_warps=4)
    return level, left


def _start(counts: Tensor) -> Tensor:
    start = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=start[1:])
    return start
