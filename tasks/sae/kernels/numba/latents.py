"""One look at every latent: both gradients are summed up in cache, and used there and then."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from tasks.sae.kernels.backend import ByLatent
from tasks.sae.kernels.numba.grouping import Grouped, grouped
from tasks.sae.kernels.numba.sums import adam, write
from tasks.sae.kernels.numba.threads import share
from tasks.sae.kernels.types import NOTHING_ADDED, AdamStep, AddedGradients, Part
from tasks.sae.parameters import Parameters

_CHUNK = 64  # latents


class LatentOperations:
    """The operation of a backend that goes through the latents."""

    def by_latent(
        self, parts: Sequence[Part], own: tuple[int, int], added: AddedGradients = NOTHING_ADDED
    ) -> "FusedByLatent":
        """Group the entries of all parts by latent, from the first to the end of ``own``."""
        return FusedByLatent(grouped(parts, own, added))


class FusedByLatent(ByLatent):
    """``ByLatent`` that never writes a gradient which only Adam is to read."""

    def __init__(self, entries: Grouped) -> None:
        self.grouped = entries

    @override
    def write(self, W_dec: Float[Tensor, "d_sae d_out"], out: Parameters) -> None:
        arrays, decoder = _arrays(out), W_dec.detach().numpy()
        share(lambda low, high: write(self.grouped, decoder, arrays, low, high), len(W_dec), _CHUNK)

    @override
    def adam(
        self, parameters: Parameters, exp_avg: Parameters, exp_avg_sq: Parameters, settings: AdamStep
    ) -> Float[Tensor, ""]:
        tensors = _arrays(parameters), _arrays(exp_avg), _arrays(exp_avg_sq)
        factors = _factors(settings, self.grouped.x.dtype)
        d_sae = len(parameters.b_enc)
        squares = np.empty(d_sae)

        def work(low: int, high: int) -> None:
            adam(self.grouped, *tensors, factors, settings.unit_norm, squares, low, high)

        share(work, d_sae, _CHUNK)
        return torch.tensor(squares.sum(), dtype=parameters.encoder.dtype)


def _arrays(parameters: Parameters) -> tuple[NDArray[Any], ...]:
    return tuple(t.detach().numpy() for t in (parameters.encoder, parameters.W_dec, parameters.b_enc))


def _factors(settings: AdamStep, dtype: Any) -> NDArray[Any]:
    """What Adam multiplies by: 1 - beta1, beta2, 1 - beta2, step size, 1 / sqrt(1 - beta2^step), and eps."""
    beta1, beta2 = settings.betas
    step_size = settings.lr / (1 - beta1**settings.step)
    return np.array([1 - beta1, beta2, 1 - beta2, step_size, (1 - beta2**settings.step) ** -0.5, settings.eps], dtype)
