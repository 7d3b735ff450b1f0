"""JumpReLU: a code is its pre-activation where that exceeds the latent's own threshold, which is learnt.

The jump has no gradient; it learns through a window around the threshold (straight-through estimators). With z the
pre-activation, t the threshold, e the window's width and R = 1[|z - t| < e / 2]:
d code / d t = -(t / e) R, and d 1[z > t] / d t = -(1 / e) R (https://arxiv.org/abs/2407.14435, equations 11 and 12).
"""

from collections.abc import Mapping
from math import log, sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.architecture import Batch
from tasks.sae.config import SAEConfig
from tasks.sae.dense import Codes, DenseArchitecture, Found, Here
from tasks.sae.exchange import Exchange, add_up_everywhere
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Folding, Weights
from tasks.sae.sparse_jumprelu import SPARSE_BELOW, sparse_jumprelu_step, window_start

_BANDWIDTH = 1e-3
"""Width of the window for rows of mean squared norm 1 in long runs, and the least threshold at the start.

Source: https://arxiv.org/abs/2407.14435, appendix, where all thresholds start from it.
"""
_LONG = 1_000_000
"""Steps of a long run. In shorter ones the window is wider, as the root of how much: too few pre-activations fall into a
narrow one. In 1,000 steps 25 to 60 times the paper's width gave FVU .218 where the paper's gave .221, at equal l0.
"""
_START_L0 = 8
"""Active latents at the start, in units of k.

Logarithms of thresholds move by the learning rate in a step: from the paper's start they are hundreds of steps too far from
where short runs have to end. At lr 3e-3 a run of 1,000 steps with k 8 ended at an l0 of 6.1.
"""


class _Jump(torch.autograd.Function):
    """z where z > threshold; with ``through_input`` the window passes gradients to z too, as to the threshold."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, width: float, through_input: bool) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width, ctx.through_input = width, through_input
        return z.where(z > threshold, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        z, threshold = ctx.saved_tensors
        jump = gradient * (threshold / ctx.width) * _window(z, threshold, ctx.width)
        to_input = gradient.where(z > threshold, 0.0)
        return to_input + jump if ctx.through_input else to_input, -jump.sum(0), None, None


class _Count(torch.autograd.Function):
    """Sum of 1[z > threshold]; the window passes gradients to the threshold."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width = width
        return (z > threshold).sum().to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        z, threshold = ctx.saved_tensors
        return None, -gradient / ctx.width * _window(z, threshold, ctx.width).sum(0), None


def _window(z: Tensor, threshold: Tensor, width: float) -> Tensor:
    return ((z - threshold).abs() < width / 2).to(z.dtype)


class JumpReLU(DenseArchitecture):
    """Squared error over variance, plus the number of active latents times a coefficient."""

    unit_norm_decoder = True
    max_grad_norm: float | None = None
    beta1 = 0.0
    tensors = ("threshold",)
    sparse_below = SPARSE_BELOW
    first_coefficient: float | None = 1e-3

    def given_coefficient(self, config: SAEConfig) -> float | None:  # noqa: D102
        return config.l0_coefficient

    def bandwidth(self, d_in: int, n_steps: int) -> float:  # noqa: D102
        return _BANDWIDTH * sqrt(d_in * max(1.0, _LONG / n_steps))

    def extra(self, config: SAEConfig) -> dict[str, tuple[int, ...]]:  # noqa: D102
        return {"log_threshold": (config.d_sae,)}

    def start(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        pre_acts = x[:_START_ROWS] @ parameters.encoder.T + parameters.b_enc
        share = min(0.5, _START_L0 * config.k / config.d_sae)
        level = pre_acts.flatten().kthvalue(max(1, round((1 - share) * pre_acts.numel()))).values
        parameters.extra["log_threshold"].copy_(level.clamp(min=_BANDWIDTH * x.shape[1] ** 0.5).log())

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        threshold = p.extra["log_threshold"].exp()
        width, n = self._width(at.config, at.batch, p), len(at.y)
        count = _count(pre_acts, threshold, width)
        total = count.detach().clone()
        add_up_everywhere(at.exchange, total)
        value, slope = self.price(at.config, at.batch, total / (n * at.exchange.world_size))
        # Linear in this worker's count, with the slope that the price has at the l0 of all workers' rows and latents.
        price = n * value / at.exchange.latents.world_size + slope * (count - count.detach())
        n_entries = (pre_acts.detach() > window_start(threshold.detach(), width)).sum()
        return Codes(_jump(pre_acts, threshold, width), price * at.y.shape[1], n_entries)

    def price(self, config: SAEConfig, batch: Batch, l0: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """What ``l0`` active latents per row cost, in shares of the variance, and its derivative by ``l0``."""
        slope = torch.ones_like(l0) * self.coefficient(config, batch)
        return slope * l0, slope

    def sparse_step(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange
    ) -> Found:
        def price(l0: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = self.price(config, batch, l0)
            return value * len(parameters.b_dec), slope * len(parameters.b_dec)

        return sparse_jumprelu_step(parameters, out, batch, exchange, self._width(config, batch, parameters), price)

    def _width(self, config: SAEConfig, batch: Batch, p: Parameters) -> float:
        return config.bandwidth or self.bandwidth(p.encoder.shape[1], batch.n_steps)

    def activate(  # noqa: D102
        self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"], weights: Weights
    ) -> Float[Tensor, "n d_sae"]:
        return pre_acts.where(pre_acts > weights.extra["threshold"], 0.0)

    def finished(  # noqa: D102
        self, parameters: Parameters, buffers: Mapping[str, Tensor], folding: Folding
    ) -> dict[str, Tensor]:
        return {"threshold": folding.level(parameters.extra["log_threshold"].exp())}


class JumpReLUTargetL0(JumpReLU):
    """The penalty is (l0 / target - 1)^2, so that l0 ends at k (https://arxiv.org/abs/2407.14435, appendix on fixed L0).

    During the sparsity's warm-up the target falls from the first step's l0 to k on a logarithmic scale. With k from the
    start, the first steps' slopes are hundreds of times the last ones', and Adam, which remembers squares of gradients for
    a thousand steps, then hardly moves thresholds any more: with k 8 a run of 1,000 steps ended at 12.6.

    The learning rate joins 1.5e-3 for 1,000 steps to the paper's 7e-5 for hundreds of thousands. Higher ones rebuild more
    and find less: on 5M rows of 2,048 known features (d_sae 512, k 8) explained variance, MCC and F1 were .839, .731 and
    .746 at 6e-3, .832, .759 and .803 at 1e-3, .828, .791 and .860 at 6.8e-4, the default there.
    """

    lr = 1.5e-3
    lr_by_length = 0.5
    lr_follows_width = False
    sparsity_warmup: float | None = 0.5
    first_coefficient = None

    def given_coefficient(self, config: SAEConfig) -> float:
        """Empty: 3, with which 1,000 steps with k 8 ended at 8.0 active latents; with 1 they ended at 8.2."""
        return 3.0 if config.l0_coefficient is None else config.l0_coefficient

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:  # noqa: D102
        return super().buffers(config) | {"first_l0": torch.zeros(1, dtype=torch.float64)}

    def price(self, config: SAEConfig, batch: Batch, l0: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The square of the relative excess over the target in force."""
        first = batch.buffers["first_l0"]
        first.copy_(torch.where(first > 0, first, l0.double().clamp(min=1.0)))
        target = config.k * (first[0] / config.k).pow(1 - batch.sparsity).to(l0.dtype)
        excess, coefficient = l0 / target - 1, self.given_coefficient(config)
        return coefficient * excess.square(), 2 * coefficient * excess / target


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

    unit_norm_decoder = False
    sparse_below = 0.0
    max_grad_norm: float | None = 1.0
    beta1 = 0.9
    lr_by_length = 0.5
    lr_follows_width = False
    sparsity_warmup: float | None = 1.0
    first_coefficient = 1.0

    def given_coefficient(self, config: SAEConfig) -> float | None:  # noqa: D102
        return config.tanh_coefficient

    def bandwidth(self, d_in: int, n_steps: int) -> float:  # noqa: D102
        return _TANH_WIDTH

    def start(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        parameters.extra["log_threshold"].fill_(log(_TANH_THRESHOLD))
        share = min(0.5, _START_L0 * config.k / config.d_sae)
        pre_acts = x[:_START_ROWS] @ parameters.encoder.T
        level = pre_acts.kthvalue(max(1, round((1 - share) * len(pre_acts))), dim=0).values
        parameters.b_enc.copy_(_TANH_THRESHOLD - level)

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:  # noqa: D102
        config = at.config
        threshold, width = p.extra["log_threshold"].exp(), config.bandwidth or _TANH_WIDTH
        codes = _jump(pre_acts, threshold, width, through_input=True)
        norms: Tensor = torch.linalg.vector_norm(p.W_dec, dim=1)
        sparsity = torch.tanh(config.tanh_scale * codes * norms).sum()
        reach = ((threshold - pre_acts).relu() * norms).sum()
        return Codes(codes, self.coefficient(at.config, at.batch) * sparsity + config.pre_act_coefficient * reach)


_TANH_WIDTH, _TANH_THRESHOLD = 2.0, 0.1
_START_ROWS = 2048


def _jump(z: Tensor, threshold: Tensor, width: float, through_input: bool = False) -> Tensor:
    codes: Tensor = _Jump.apply(z, threshold, width, through_input)  # type: ignore[no-untyped-call]
    return codes


def _count(z: Tensor, threshold: Tensor, width: float) -> Tensor:
    count: Tensor = _Count.apply(z, threshold, width)  # type: ignore[no-untyped-call]
    return count
