"""An architecture that is not among ours: ReLU codes that pay for their squares."""

from jaxtyping import Float
from torch import Tensor

from tasks.sae.architectures.names import Description
from tasks.sae.architectures.penalised import LossContext, Penalised, PenalisedCodes
from tasks.sae.parameters import Parameters

DESCRIPTION = Description(
    title="Ridge",
    about="ReLU, with a penalty on squared codes",
    k="none",
    settings=("l1_coefficient",),
)


class Ridge(Penalised):
    description = DESCRIPTION

    def codes(self, at: LossContext, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> PenalisedCodes:
        codes = pre_acts.relu()
        return PenalisedCodes(codes, (at.config.l1_coefficient or 0.0) * codes.square().sum())


ARCHITECTURE = Ridge()
