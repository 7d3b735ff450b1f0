"""Architectures whose codes are the positive pre-activations: with L1 of two kinds, and without any sparsity."""

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.config import SAEConfig
from tasks.sae.dense import Codes, DenseArchitecture, Here
from tasks.sae.init import shrink_decoder
from tasks.sae.losses import weighted_l1
from tasks.sae.parameters import Parameters


class L1(DenseArchitecture):
    """Squared error plus L1 on codes weighted by decoder row norms (https://transformer-circuits.pub/2024/april-update)."""

    max_grad_norm: float | None = 1.0

    def start(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        shrink_decoder(parameters)

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        codes = pre_acts.relu()
        return Codes(codes, at.config.l1_coefficient * at.batch.sparsity * weighted_l1(codes, p.W_dec))


class L1UnitNorm(DenseArchitecture):
    """Squared error plus plain L1, with decoder rows held at norm 1 and dead latents resampled.

    Source: https://transformer-circuits.pub/2023/monosemantic-features (the input's own bias is in ``b_enc`` here, which
    spans the same functions).
    """

    unit_norm_decoder = True
    resamples = True

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        codes = pre_acts.relu()
        return Codes(codes, at.config.l1_coefficient * at.batch.sparsity * codes.sum())


class Dense(L1):
    """A plain autoencoder: the same parts, and nothing that asks for sparsity. For comparison."""

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        return Codes(pre_acts.relu(), torch.zeros_like(p.b_dec[0]))
