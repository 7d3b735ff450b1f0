"""A plain autoencoder, for comparison."""

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from tasks.sae.architectures.names import Description
from tasks.sae.architectures.penalised import LossContext, Penalised, PenalisedCodes
from tasks.sae.parameters import Parameters

DESCRIPTION = Description(
    title="dense",
    about="a plain autoencoder of the same parts without sparsity, for comparison",
    k="none",
    settings=(),
)


class Dense(Penalised):
    """ReLU codes, and nothing that asks for sparsity."""

    description = DESCRIPTION
    starts_small = True

    @override
    def codes(self, at: LossContext, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> PenalisedCodes:
        return PenalisedCodes(pre_acts.relu(), torch.zeros_like(p.b_dec[0]))


ARCHITECTURE = Dense()
