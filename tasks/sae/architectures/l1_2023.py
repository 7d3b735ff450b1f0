"""ReLU codes with plain L1, decoder rows of norm 1, and dead latents that are drawn anew."""

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
from tasks.sae.mesh import Mesh
from tasks.sae.parameters import Parameters

DESCRIPTION = Description(
    title="L1 (2023)",
    about="ReLU with L1, unit-norm decoder, and resampling of dead latents",
    k="aim",
    settings=("k", "l1_coefficient"),
)


class L1UnitNorm(Penalised):
    """Squared error plus plain L1, with decoder rows held at norm 1 and dead latents resampled.

    Source: https://transformer-circuits.pub/2023/monosemantic-features (the input's own bias is in ``b_enc`` here, which
    spans the same functions).
    """

    description = DESCRIPTION
    unit_norm_decoder = True
    resamples = True
    first_coefficient = 0.5
    active_below = ACTIVE_BELOW

    @override
    def codes(self, at: LossContext, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> PenalisedCodes:
        codes = pre_acts.relu()
        return PenalisedCodes(codes, self.coefficient(at.config, at.batch) * codes.sum())

    @override
    def active_step(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> StepOutcome:
        coefficient = self.coefficient(config, batch)

        def penalty(entries: Entries) -> Penalty:
            return Penalty(coefficient * entries.values.sum(), torch.ones_like(entries.values) * coefficient)

        return relu_step(parameters, out, batch, mesh, penalty)


ARCHITECTURE = L1UnitNorm()
