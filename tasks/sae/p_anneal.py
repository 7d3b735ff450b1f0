"""P-annealing (https://arxiv.org/abs/2408.00113): an Lp penalty whose p falls from 1, closer and closer to counting.

At each change of p the coefficient is rescaled, so that the penalty of the present codes stays as it was.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.config import SAEConfig
from tasks.sae.dense import Codes, DenseArchitecture, Here
from tasks.sae.parameters import Parameters

CHANGES = 10
"""Steps in which p falls, evenly over the run."""
_SMALLEST = 1e-8  # codes below count as 0: the slope of f^p has no bound there


class PAnneal(DenseArchitecture):
    """Squared error plus lambda * sum f^p, with decoder rows held at norm 1."""

    unit_norm_decoder = True
    resamples = True
    first_coefficient = 0.5

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:  # noqa: D102
        one = torch.ones(1, dtype=torch.float64)
        return super().buffers(config) | {"p": one, "rescaled": one.clone()}

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        codes, buffers = pre_acts.relu(), at.batch.buffers
        wanted = 1 - (1 - at.config.p_final) * int(at.batch.progress * CHANGES) / CHANGES
        if wanted < float(buffers["p"]) - 1e-9:
            sums = torch.stack([_power_sum(codes.detach(), float(buffers["p"])), _power_sum(codes.detach(), wanted)])
            at.exchange.add_up(sums)
            buffers["rescaled"].mul_(float(sums[0] / sums[1]) if float(sums[1]) > 0 else 1.0)
            buffers["p"].fill_(wanted)
        coefficient = self.coefficient(at.config, at.batch) * float(buffers["rescaled"])
        return Codes(codes, coefficient * _power_sum(codes, float(buffers["p"])))


def _power_sum(codes: Tensor, p: float) -> Tensor:
    return codes.sum() if p == 1.0 else codes[codes > _SMALLEST].pow(p).sum()
