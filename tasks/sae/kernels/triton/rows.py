"""The operations that go through the rows: decode, compare, and pull the gradient back to the entries' values."""

from typing import Any

import torch
from torch import Tensor

from tasks.sae.kernels.triton.jit import accumulator, block_of, ends_on, launch
from tasks.sae.kernels.triton.sums import decode_and_compare, decode_each_group, products
from tasks.sae.kernels.types import Coded, DecodedRows

_BLOCK = 1024
"""The most columns of a program."""


def decoded_rows(target: Tensor, coded: Coded, weight: Tensor, *, pull: bool) -> DecodedRows:
    """Decode and compare with the target in one look at the decoder rows; ``pull`` takes another."""
    (n, d_out), n_groups = target.shape, len(coded.bounds)
    block = block_of(d_out, _BLOCK)
    grid = n, -(-d_out // block)
    residual = torch.empty(n, d_out, dtype=target.dtype, device=target.device)
    output_gradient = residual.new_empty(n_groups * n, d_out)
    errors = torch.empty(n, n_groups, grid[1], dtype=torch.float64, device=target.device)
    given = target.detach().contiguous(), coded.W_dec.detach().contiguous(), weight.detach().contiguous()
    outs = residual, output_gradient, errors
    launch(decode_and_compare, grid, *given, *_arrays(coded), *outs, n, d_out, BLOCK=block, **_constants(coded))
    d_values = pulled_back(output_gradient, coded) if pull else None
    return DecodedRows(lambda: residual, output_gradient, d_values, errors.sum((0, 2)), coded.entries.count)


def decoded_groups(coded: Coded) -> Tensor:
    """What each group of latents decodes to ``[g, n, d_out]``."""
    n, d_out, W_dec = coded.entries.n, coded.W_dec.shape[1], coded.W_dec.detach().contiguous()
    block = block_of(d_out, _BLOCK)
    decoded = torch.empty(len(coded.bounds), n, d_out, dtype=W_dec.dtype, device=W_dec.device)
    grid = n, -(-d_out // block)
    launch(decode_each_group, grid, W_dec, *_arrays(coded), decoded, n, d_out, BLOCK=block, **_constants(coded))
    return decoded


def pulled_back(output_gradient: Tensor, coded: Coded) -> Tensor:
    """The loss's gradient on each entry's value ``[m]``."""
    n, d_out = coded.entries.n, coded.W_dec.shape[1]
    _, *arrays = _arrays(coded)
    d_values = torch.empty(arrays[0].shape, dtype=coded.entries.values.dtype, device=coded.W_dec.device)
    given = output_gradient.detach().contiguous(), coded.W_dec.detach().contiguous()
    constants = _constants(coded) | {"BLOCK": block_of(d_out, _BLOCK)}
    launch(products, (n,), *given, *arrays, d_values, n, d_out, **constants)
    return d_values.masked_fill_(coded.entries.values == 0, 0.0) if coded.entries.padded else d_values


def _arrays(coded: Coded) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values, latents and start of the entries, and the ends of the groups."""
    entries = coded.entries
    values, latents = entries.values.detach().contiguous(), entries.latents.contiguous()
    return values, latents, entries.start.contiguous(), ends_on(latents.device, coded.bounds)


def _constants(coded: Coded) -> dict[str, Any]:
    return {"G": len(coded.bounds), "KIND": accumulator(coded.W_dec.dtype), "num_warps": 4}
