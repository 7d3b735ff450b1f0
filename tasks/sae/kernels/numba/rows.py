"""One look at every row: decode, compare, and pull the gradient back while the row's decoder rows are in cache."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tasks.sae.kernels.numba.sums import add_groups, compare_rows, decode, dot_groups
from tasks.sae.kernels.numba.threads import share
from tasks.sae.kernels.types import Coded, Compared, DecodedRows

_CHUNK = 64  # rows


class RowOperations:
    """The operations of a backend that go through the rows."""

    def decode_rows(
        self, target: Float[Tensor, "n d_out"], coded: Coded, weight: Float[Tensor, "g"], *, pull: bool = True
    ) -> DecodedRows:
        """Decode, compare with the target, and pull the gradient of the loss back to the entries' values if told to."""
        n, d_out = target.shape
        values, n_groups = coded.entries.values, len(coded.bounds)
        residual, output_gradient = torch.empty_like(target), target.new_empty(n_groups * n, d_out)
        d_values = values.new_empty(len(values) * pull)
        errors = torch.empty(n, n_groups, dtype=torch.float64)
        outs = (residual.numpy(), output_gradient.numpy(), d_values.numpy(), errors.numpy())
        given = (target.detach().contiguous().numpy(), _decoder(coded), weight.detach().numpy())
        arrays = _arrays(coded)
        share(lambda low, high: decode(*given, *arrays, *outs, low, high), n, _CHUNK)
        pulled = d_values if pull else None
        return DecodedRows(lambda: residual, output_gradient, pulled, errors.sum(0), coded.entries.count)

    def compare(
        self, target: Float[Tensor, "n d_out"], decoded: Float[Tensor, "g n d_out"], weight: Float[Tensor, "g"]
    ) -> Compared:
        """Hold what each group of latents decodes to against what prefixes of the groups have to rebuild."""
        gradient, errors = torch.empty_like(decoded), torch.empty(len(target), len(decoded), dtype=torch.float64)
        given = target.detach().contiguous().numpy(), decoded.detach().numpy(), weight.detach().numpy()
        outs = gradient.numpy(), errors.numpy()
        share(lambda low, high: compare_rows(*given, *outs, low, high), len(target), _CHUNK)
        return Compared(gradient, errors.sum(0))

    def pull_back(self, output_gradient: Float[Tensor, "g_times_n d_out"], coded: Coded) -> Float[Tensor, "m"]:
        """The loss's gradient on each entry's value."""
        d_values = torch.empty_like(coded.entries.values)
        given, out = (output_gradient.detach().contiguous().numpy(), _decoder(coded)), d_values.numpy()
        _, *arrays = _arrays(coded)
        share(lambda low, high: dot_groups(*given, *arrays, out, low, high), coded.entries.n, _CHUNK)
        return d_values

    def decode_groups(self, coded: Coded) -> Float[Tensor, "g n d_out"]:
        """What each group of latents decodes to."""
        decoded = coded.W_dec.new_empty(len(coded.bounds), coded.entries.n, coded.W_dec.shape[1])
        given, arrays, out = _decoder(coded), _arrays(coded), decoded.numpy()
        share(lambda low, high: add_groups(given, *arrays, out, low, high), coded.entries.n, _CHUNK)
        return decoded


def _decoder(coded: Coded) -> NDArray[Any]:
    decoder: NDArray[Any] = coded.W_dec.detach().contiguous().numpy()
    return decoder


def _arrays(coded: Coded) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], int]:
    """Values, latents and start of the entries, the ends of the groups, and the most entries that a row has."""
    entries = coded.entries
    longest = int(entries.start.diff().max()) if entries.n else 0
    return entries.values.detach().numpy(), entries.latents.numpy(), entries.start.numpy(), np.array(coded.bounds), longest
