"""Selection of active latents. How many there are is known on the device only: each operation asks it one number."""

import torch
from torch import Tensor

from tasks.sae.kernels.torch_reference import rounded_down
from tasks.sae.kernels.triton.above import count_above, write_above
from tasks.sae.kernels.triton.jit import accumulator, block_of, launch
from tasks.sae.kernels.triton.keys import PRECISIONS
from tasks.sae.kernels.triton.top import top_of_rows
from tasks.sae.kernels.types import Entries, no_entries

_BLOCK = 512
"""Columns at once, and groups: with 512 a sketch took .64 ms of 8,192 rows of 24,576 columns (an H200, bfloat16)."""
_MOST_GROUPED = 2048
"""The largest k for which groups and candidates stay in registers."""


def top_of(pre_acts: Tensor, columns: Tensor | None, k: int, dtype: torch.dtype) -> Entries:
    """The positive ones among the ``k`` largest of each row, among all columns if none are named."""
    n, precision = len(pre_acts), PRECISIONS[pre_acts.dtype]
    if n == 0 or k == 0:
        return no_entries(n, pre_acts, dtype)
    bits = pre_acts.detach().contiguous().view(precision.bits)
    values = torch.empty(n, k, dtype=dtype, device=bits.device)
    latents, counts = (torch.empty(shape, dtype=torch.int32, device=bits.device) for shape in ((n, k), (n,)))
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
        counts,
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
    return _dense_entries(values, latents, counts)


def _dense_entries(values: Tensor, latents: Tensor, counts: Tensor) -> Entries:
    """Entries of rows that have k each, in most steps of a trained SAE; else they have to be moved together."""
    n, k = values.shape
    if int(counts.min()) == k:  # the host waits here: the number of entries is the size of tensors
        start = torch.arange(0, n * k + 1, k, device=counts.device)
        return Entries(values.view(-1), latents.view(-1), start)
    kept = torch.arange(k, device=counts.device) < counts[:, None]
    return Entries(values[kept], latents[kept], _start(counts))


def above(pre_acts: Tensor, level: float | Tensor, dtype: torch.dtype) -> Entries:
    """All pre-activations above ``level``, which is one for all latents or each latent's own."""
    n, width = pre_acts.shape
    rows, levels = pre_acts.detach().contiguous(), rounded_down(level, pre_acts)
    given = rows, levels.detach().contiguous()
    counts = torch.empty(n, dtype=torch.int32, device=rows.device)
    how = {"OWN": levels.ndim == 1, "BLOCK": block_of(width, 1024), "KIND": accumulator(rows.dtype), "num_warps": 4}
    launch(count_above, (n,), *given, counts, width, width, **how)
    start = _start(counts)
    n_found = int(start[-1])  # the host waits here, as above
    values = torch.empty(n_found, dtype=dtype, device=rows.device)
    latents = torch.empty(n_found, dtype=torch.int32, device=rows.device)
    launch(write_above, (n,), *given, start, values, latents, width, width, **how)
    return Entries(values, latents, start)


def _start(counts: Tensor) -> Tensor:
    start = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=start[1:])
    return start
