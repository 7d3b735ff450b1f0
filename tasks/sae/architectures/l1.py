"""ReLU codes with L1, each code weighted by its decoder row's norm."""

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.names import Description
from tasks.sae.architectures.penalised import LossContext, Penalised, PenalisedCodes, StepOutcome
from tasks.sae.architectures.relu_step import ACTIVE_BELOW, Penalty, relu_step
from tasks.sae.config import SAEConfig
from tasks.sae.kernels.types import Entries
from tasks.sae.losses import weighted_l1
from tasks.sae.mesh import Mesh
from tasks.sae.parameters import Parameters

DESCRIPTION = Description(
    title="L1",
    about="ReLU, with L1 on latents weighted by decoder row norms",
    k="aim",
    settings=("k", "l1_coefficient"),
)


class L1(Penalised):
    """Squared error plus L1 on codes weighted by decoder row norms (https://transformer-circuits.pub/2024/april-update)."""

    description = DESCRIPTION
    first_coefficient = 0.5
    active_below = ACTIVE_BELOW
    starts_small = True

    @override
    def codes(self, at: LossContext, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> PenalisedCodes:
        codes = pre_acts.relu()
        return PenalisedCodes(codes, self.coefficient(at.config, at.batch) * weighted_l1(codes, p.W_dec))

    @override
    def active_step(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> StepOutcome:
        coefficient = self.coefficient(config, batch)
        return relu_step(parameters, out, batch, mesh, lambda entries: _weighted(entries, parameters.W_dec, coefficient))


def _weighted(entries: Entries, W_dec: Tensor, coefficient: float | Tensor) -> Penalty:
    """``coefficient`` times ``weighted_l1``; a decoder row of norm 0 gets no gradient, as from autograd."""
    norms: Tensor = torch.linalg.vector_norm(W_dec, dim=1)
    used = entries.sum_by_latent(entries.values, len(W_dec))
    radial = (coefficient * used / norms).where(norms > 0, 0.0)
    return Penalty(coefficient * (used * norms).sum(), coefficient * norms[entries.latents], radial)


ARCHITECTURE = L1()
