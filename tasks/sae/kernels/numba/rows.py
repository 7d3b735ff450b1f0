"""One look at every row: decode, compare, and pull the gradient back while the row's decoder rows are in cache."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.kernels.numba.sums import add_groups, compare_rows, decode, dot_groups
from tasks.sae.kernels.numba.threads import share
from tasks.sae.kernels.types import Compared, DecodedRows, Entries

_CHUNK = 64  # rows


class RowOperations:
    """The operations of a backend that go through the rows."""

    def decode_rows(
        self,
        target: Float[Tensor, "n d_out"],
        entries: Entries,
        W_dec: Float[Tensor, "d_sae d_out"],
        weight: Float[Tensor, "g"],
        bounds: tuple[int, ...],
        *,
        pull: bool = True,
    ) -> DecodedRows:
        """Decode, compare with the target, and pull the gradient of the loss back to the entries' values if told to."""
        n, d_out = target.shape
        n_groups = len(bounds)
        residual, output_gradient = torch.empty_like(target), target.new_empty(n_groups * n, d_out)
        d_values = entries.values.new_empty(len(entries.values) * pull)
        errors = torch.empty(n, n_groups, dtype=torch.float64)
        outs = (residual.numpy(), output_gradient.numpy(), d_values.numpy(), errors.numpy())
        given = (target.detach().contiguous().numpy(), W_dec.detach().contiguous().numpy(), weight.detach().numpy())
        coded = (entries.values.detach().numpy(), entries.latents.numpy(), entries.start.numpy())
        longest = int(entries.start.diff().max()) if n else 0
        ends = np.array(bounds)
        share(lambda low, high: decode(*given, *coded, ends, longest, *outs, low, high), n, _CHUNK)
        return DecodedRows(lambda: residual, output_gradient, d_values if pull else None, errors.sum(0), entries.count)

    def compare(
        self, target: Float[Tensor, "n d_out"], decoded: Float[Tensor, "g n d_out"], weight: Float[Tensor, "g"]
    ) -> Compared:
        """Hold what each group of latents decodes to against what prefixes of the groups have to rebuild."""
        gradient, errors = torch.empty_like(decoded), torch.empty(len(target), len(decoded), dtype=torch.float64)
        given = target.detach().contiguous().numpy(), decoded.detach().numpy(), weight.detach().numpy()
        outs = gradient.numpy(), errors.numpy()
        share(lambda low, high: compare_rows(*given, *outs, low, high), len(target), _CHUNK)
        return Compared(gradient, errors.sum(0))

    def pull_back(
        self,
        output_gradient: Float[Tensor, "g_times_n d_out"],
        entries: Entries,
        W_dec: Float[Tensor, "d_sae d_out"],
        bounds: tuple[int, ...],
    ) -> Float[Tensor, "m"]:
        """The loss's gradient on each entry's value."""
        d_values = torch.empty_like(entries.values)
        given = (output_gradient.detach().contiguous().numpy(), W_dec.detach().contiguous().numpy())
        coded = (entries.latents.numpy(), entries.start.numpy())
        longest = int(entries.start.diff().max()) if entries.n else 0
        out, ends = d_values.numpy(), np.array(bounds)
        share(lambda low, high: dot_groups(*given, *coded, ends, longest, out, low, high), entries.n, _CHUNK)
        return d_values

    def decode_groups(
        self, entries: Entries, W_dec: Float[Tensor, "d_sae d_out"], bounds: tuple[int, ...]
    ) -> Float[Tensor, "g n d_out"]:
        """What each group of latents decodes to."""
        decoded = W_dec.new_empty(len(bounds), entries.n, W_dec.shape[1])
        coded = (entries.values.detach().numpy(), entries.latents.numpy(), entries.start.numpy())
        longest = int(entries.start.diff().max()) if entries.n else 0
        given, out, ends = W_dec.detach().contiguous().numpy(), decoded.numpy(), np.array(bounds)
        share(lambda low, high: add_groups(given, *coded, ends, longest, out, low, high), entries.n, _CHUNK)
        return decoded
