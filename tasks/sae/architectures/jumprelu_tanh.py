"""JumpReLU with a tanh penalty (https://transformer-circuits.pub/2025/january-update)."""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from tasks.sae.architectures.jump import jump
from tasks.sae.architectures.jumprelu import START_L0, START_ROWS, JumpReLU
from tasks.sae.architectures.names import Description
from tasks.sae.architectures.penalised import LossContext, PenalisedCodes
from tasks.sae.config import SAEConfig
from tasks.sae.parameters import Parameters

DESCRIPTION = Description(
    title="JumpReLU (tanh)",
    about="a learnt threshold per latent, with a tanh penalty",
    k="aim",
    settings=("k", "tanh_coefficient", "tanh_scale", "pre_act_coefficient", "bandwidth"),
)

_TANH_WIDTH, _TANH_THRESHOLD = 2.0, 0.1


class JumpReLUTanh(JumpReLU):
    """Tanh of the norm-weighted codes, and a pull on silent latents (https://transformer-circuits.pub/2025/january-update).

    The decoder's norms are free, and the window passes gradients to all parameters. Every step is dense: the window is two
    deviations wide, and nearly every silent latent is pulled.

    Two departures from the update, whose runs have a million latents and hundreds of thousands of steps. Weights start tied
    and of norm 1, where it has an encoder of d_in / d_sae the decoder's size and 10,000 active latents: biases move by a
    learning rate a step, so that in a short run a latent that falls silent while its encoder grows stays so. On
    SmolLM2-135M (d_sae 4608, k 32, 1M tokens) that start ended at FVU .192 with 22% dead or, at twice the learning rate, at
    .108 with 69%; this one is at .103 with 18% after 400k. And the learning rate falls as the root of the run's length,
    which joins 3e-3 for 1,000 steps to the update's 2e-4: on 5M rows of 2,048 known features (d_sae 512, k 8) F1 was .81 at
    2.0e-3, .86 at 1.4e-3.
    """

    description = DESCRIPTION
    unit_norm_decoder = False
    active_below = 0.0
    max_grad_norm: float | None = 1.0
    beta1 = 0.9
    lr_by_length = 0.5
    lr_follows_width = False
    sparsity_warmup: float | None = 1.0
    first_coefficient = 1.0

    @override
    def given_coefficient(self, config: SAEConfig) -> float | None:
        return config.tanh_coefficient

    @override
    def bandwidth(self, d_in: int, n_steps: int) -> float:
        return _TANH_WIDTH

    @override
    def start(
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        parameters.extra["log_threshold"].fill_(log(_TANH_THRESHOLD))
        share = min(0.5, START_L0 * config.k / config.d_sae)
        pre_acts = x[:START_ROWS] @ parameters.encoder.T
        level = pre_acts.kthvalue(max(1, round((1 - share) * len(pre_acts))), dim=0).values
        parameters.b_enc.copy_(_TANH_THRESHOLD - level)

    @override
    def codes(self, at: LossContext, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> PenalisedCodes:
        config = at.config
        threshold, width = p.extra["log_threshold"].exp(), config.bandwidth or _TANH_WIDTH
        codes = jump(pre_acts, threshold, width, through_input=True)
        norms: Tensor = torch.linalg.vector_norm(p.W_dec, dim=1)
        sparsity = torch.tanh(config.tanh_scale * codes * norms).sum()
        reach = ((threshold - pre_acts).relu() * norms).sum()
        return PenalisedCodes(codes, self.coefficient(at.config, at.batch) * sparsity + config.pre_act_coefficient * reach)


ARCHITECTURE = JumpReLUTanh()
