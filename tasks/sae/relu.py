"""Architectures whose codes are the positive pre-activations: with L1 of two kinds, and without any sparsity."""

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.architecture import Batch, StepSums
from tasks.sae.config import SAEConfig
from tasks.sae.dense import Codes, DenseArchitecture, Here
from tasks.sae.exchange import Exchange
from tasks.sae.init import shrink_decoder
from tasks.sae.losses import weighted_l1
from tasks.sae.parameters import Parameters
from tasks.sae.sparse import ByLatent
from tasks.sae.sparse_relu import sparse_l1_gradients

SPARSE_BELOW = 0.05
"""Share of active latents in the step before below which a step touches active latents only. A guess."""


class L1UnitNorm(DenseArchitecture):
    """Squared error plus plain L1, with decoder rows held at norm 1 and dead latents resampled.

    Source: https://transformer-circuits.pub/2023/monosemantic-features (the input's own bias is in ``b_enc`` here, which
    spans the same functions).
    """

    unit_norm_decoder = True
    resamples = True
    first_coefficient = 0.5

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:  # noqa: D102
        return super().buffers(config) | {"density": torch.ones(1, dtype=torch.float64)}

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        codes = pre_acts.relu()
        l1 = codes.sum() if self.unit_norm_decoder else weighted_l1(codes, p.W_dec)
        return Codes(codes, self.coefficient(at.config, at.batch) * l1)

    def step(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange
    ) -> tuple[StepSums, ByLatent | None]:
        found: tuple[StepSums, ByLatent | None]
        if float(batch.buffers["density"]) < SPARSE_BELOW:
            coefficient, by_norm = self.coefficient(config, batch), not self.unit_norm_decoder
            found = sparse_l1_gradients(config, parameters, out, batch, exchange, coefficient, by_norm)
        else:
            found = super().step(config, parameters, out, batch, exchange)
        batch.buffers["density"].copy_(found[0].n_active / (found[0].n_rows * config.d_sae))
        return found


class L1(L1UnitNorm):
    """Squared error plus L1 on codes weighted by decoder row norms (https://transformer-circuits.pub/2024/april-update)."""

    unit_norm_decoder = False
    resamples = False
    max_grad_norm: float | None = 1.0

    def start(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        shrink_decoder(parameters)


class Dense(DenseArchitecture):
    """A plain autoencoder: the same parts, and nothing that asks for sparsity. For comparison."""

    max_grad_norm: float | None = 1.0

    def start(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        shrink_decoder(parameters)

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        return Codes(pre_acts.relu(), torch.zeros_like(p.b_dec[0]))
