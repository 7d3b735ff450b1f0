"""One look at every row: decode, compare, and pull the gradient back while the row's decoder rows are in cache."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.entries import Entries, Rows
from tasks.sae.kernels.sums import add_groups, decode
from tasks.sae.kernels.threads import share

_CHUNK = 64  # rows


def decode_rows(
    target: Float[Tensor, "n d_out"],
    entries: Entries,
    W_dec: Float[Tensor, "d_sae d_out"],
    weight: Float[Tensor, "g"],
    bounds: tuple[int, ...],
    decoded: Float[Tensor, "g n d_out"] | None = None,
) -> Rows:
    """Decode, compare with the target, and pull the gradient of the loss back to the entries' values."""
    n, d_out = target.shape
    n_groups = len(bounds)
    residual, output_gradient = torch.empty_like(target), target.new_empty(n_groups * n, d_out)
    d_values, errors = torch.empty_like(entries.values), torch.empty(n, n_groups, dtype=torch.float64)
    outs = (residual.numpy(), output_gradient.numpy(), d_values.numpy(), errors.numpy())
    given = (target.detach().contiguous().numpy(), W_dec.detach().contiguous().numpy(), weight.detach().numpy())
    coded = (entries.values.detach().numpy(), entries.latents.numpy(), entries.start.numpy())
    longest = int(entries.start.diff().max()) if n else 0
    whole = np.empty((0, 0, 0), given[0].dtype) if decoded is None else decoded.contiguous().numpy()
    ends = np.array(bounds)
    share(lambda low, high: decode(*given, *coded, ends, longest, whole, *outs, low, high), n, _CHUNK)
    return Rows(residual, output_gradient, d_values, errors.sum(0))


def decode_groups(
    entries: Entries, W_dec: Float[Tensor, "d_sae d_out"], bounds: tuple[int, ...]
) -> Float[Tensor, "g n d_out"]:
    """What each group of latents decodes to."""
    decoded = W_dec.new_zeros(len(bounds), entries.n, W_dec.shape[1])
    coded = (entries.values.detach().numpy(), entries.latents.numpy(), entries.start.numpy())
    longest = int(entries.start.diff().max()) if entries.n else 0
    given, out, ends = W_dec.detach().contiguous().numpy(), decoded.numpy(), np.array(bounds)
    share(lambda low, high: add_groups(given, *coded, ends, longest, out, low, high), entries.n, _CHUNK)
    return decoded
