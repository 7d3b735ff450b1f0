"""P-annealing (https://arxiv.org/abs/2408.00113): an Lp penalty whose p falls from 1, closer and closer to counting.

At each change of p the coefficient is rescaled, so that the penalty of the present codes stays as it was.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear
from typing_extensions import override

from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.names import Description
from tasks.sae.architectures.penalised import LossContext, Penalised, PenalisedCodes, StepOutcome
from tasks.sae.architectures.relu_step import ACTIVE_BELOW, Penalty, relu_step
from tasks.sae.config import SAEConfig
from tasks.sae.kernels.types import Entries
from tasks.sae.latent_parallel import all_reduced
from tasks.sae.mesh import Mesh
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Folding

DESCRIPTION = Description(
    title="p-annealed",
    about="ReLU with an Lp penalty whose p falls from 1",
    k="aim",
    settings=("k", "l1_coefficient", "p_final"),
)

CHANGES = 10
"""Steps in which p falls, evenly over the run."""
_ROWS = 1024  # by which the penalty of an SAE that is begun from is measured
_SMALLEST = 1e-8  # codes below count as 0: the slope of f^p has no bound there


class PAnneal(Penalised):
    """Squared error plus lambda * sum f^p, with decoder rows held at norm 1."""

    description = DESCRIPTION
    unit_norm_decoder = True
    resamples = True
    active_below = ACTIVE_BELOW
    first_coefficient = 0.5

    @override
    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        one = torch.ones(1, dtype=torch.float64)
        return super().buffers(config) | {"p": one, "rescaled": one.clone()}

    @override
    def take_over(
        self,
        config: SAEConfig,
        parameters: Parameters,
        buffers: Mapping[str, Tensor],
        finished: Mapping[str, Tensor],
        folding: Folding,
        x: Float[Tensor, "m d_in"],
    ) -> None:
        """p has fallen already: from the start the penalty is that of its end, and as large as it would be with p at 1."""
        codes = linear(x[:_ROWS], parameters.encoder, parameters.b_enc).relu_()
        sums = [float(_power_sum(codes, p)) for p in (1.0, config.p_final)]
        buffers["p"].fill_(config.p_final)
        buffers["rescaled"].fill_(sums[0] / sums[1] if sums[1] > 0 else 1.0)

    @override
    def codes(self, at: LossContext, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> PenalisedCodes:
        codes = pre_acts.relu()
        coefficient, power = self._in_force(
            at.config, at.batch, lambda sums: at.total(pre_acts, lambda found: sums(found.relu()))
        )
        return PenalisedCodes(codes, coefficient * _power_sum(codes, power))

    @override
    def active_step(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> StepOutcome:
        def penalty(entries: Entries) -> Penalty:
            coefficient, power = self._in_force(  # the codes are of all rows already
                config, batch, lambda sums: all_reduced(sums(entries.values), mesh.latents)
            )
            return Penalty(coefficient * _power_sum(entries.values, power), coefficient * _slope(entries.values, power))

        return relu_step(parameters, out, batch, mesh, penalty)

    def _in_force(
        self, config: SAEConfig, batch: StepBatch, total: Callable[[Callable[[Tensor], Tensor]], Tensor]
    ) -> tuple[float | Tensor, float]:
        """Coefficient and p of this step; where p falls, by sums over codes, which ``total`` adds up over the batch."""
        buffers = batch.buffers
        before, wanted = float(buffers["p"]), 1 - (1 - config.p_final) * int(batch.progress * CHANGES) / CHANGES
        if wanted < before - 1e-9:
            sums = total(lambda codes: torch.stack([_power_sum(codes, before), _power_sum(codes, wanted)]))
            buffers["rescaled"].mul_(float(sums[0] / sums[1]) if float(sums[1]) > 0 else 1.0)
            buffers["p"].fill_(wanted)
        return self.coefficient(config, batch) * float(buffers["rescaled"]), float(buffers["p"])


def _power_sum(codes: Tensor, p: float) -> Tensor:
    return codes.sum() if p == 1.0 else codes[codes > _SMALLEST].pow(p).sum()


def _slope(codes: Tensor, p: float) -> Tensor:
    return torch.ones_like(codes) if p == 1.0 else (p * codes.pow(p - 1)).where(codes > _SMALLEST, 0.0)


ARCHITECTURE = PAnneal()
