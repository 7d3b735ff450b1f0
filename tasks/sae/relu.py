"""Architectures whose codes are the positive pre-activations: with L1 of two kinds, and without any sparsity."""

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.architecture import Batch
from tasks.sae.config import SAEConfig
from tasks.sae.dense import Codes, DenseArchitecture, Found, Here
from tasks.sae.exchange import Exchange
from tasks.sae.init import shrink_decoder
from tasks.sae.kernels.types import Entries
from tasks.sae.losses import weighted_l1
from tasks.sae.parameters import Parameters
from tasks.sae.sparse_relu import SPARSE_BELOW, Penalty, sparse_relu_step


class L1UnitNorm(DenseArchitecture):
    """Squared error plus plain L1, with decoder rows held at norm 1 and dead latents resampled.

    Source: https://transformer-circuits.pub/2023/monosemantic-features (the input's own bias is in ``b_enc`` here, which
    spans the same functions).
    """

    unit_norm_decoder = True
    resamples = True
    first_coefficient = 0.5
    sparse_below = SPARSE_BELOW

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        codes = pre_acts.relu()
        l1 = codes.sum() if self.unit_norm_decoder else weighted_l1(codes, p.W_dec)
        return Codes(codes, self.coefficient(at.config, at.batch) * l1)

    def sparse_step(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange
    ) -> Found:
        coefficient = self.coefficient(config, batch)

        def penalty(entries: Entries) -> Penalty:
            if self.unit_norm_decoder:
                return Penalty(coefficient * entries.values.sum(), torch.ones_like(entries.values) * coefficient)
            return _weighted(entries, parameters.W_dec, coefficient)

        return sparse_relu_step(parameters, out, batch, exchange, penalty)


class L1(L1UnitNorm):
    """Squared error plus L1 on codes weighted by decoder row norms (https://transformer-circuits.pub/2024/april-update)."""

    unit_norm_decoder = False
    resamples = False

    def start(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        shrink_decoder(parameters)


class Dense(DenseArchitecture):
    """A plain autoencoder: the same parts, and nothing that asks for sparsity. For comparison."""

    def start(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        shrink_decoder(parameters)

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        return Codes(pre_acts.relu(), torch.zeros_like(p.b_dec[0]))


def _weighted(entries: Entries, W_dec: Tensor, coefficient: float | Tensor) -> Penalty:
    """``coefficient`` times ``weighted_l1``; a decoder row of norm 0 gets no gradient, as from autograd."""
    norms: Tensor = torch.linalg.vector_norm(W_dec, dim=1)
    used = entries.sum_by_latent(entries.values, len(W_dec))
    radial = (coefficient * used / norms).where(norms > 0, 0.0)
    return Penalty(coefficient * (used * norms).sum(), coefficient * norms[entries.latents], radial)
