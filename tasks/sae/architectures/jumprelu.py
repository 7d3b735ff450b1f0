"""JumpReLU: a code is its pre-activation where that exceeds the latent's own threshold, which is learnt.

Source: https://arxiv.org/abs/2407.14435; ``jump`` says how a threshold learns.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from tasks.sae.architectures.active_step import begin_active_step
from tasks.sae.architectures.affine import write_rest
from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.jump import count_above, jump, window_start
from tasks.sae.architectures.names import Description
from tasks.sae.architectures.penalised import LossContext, Penalised, PenalisedCodes, StepOutcome
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import Mesh
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Folding, Weights

DESCRIPTION = Description(
    title="JumpReLU",
    about="a learnt threshold per latent, with an L0 penalty",
    k="aim",
    settings=("k", "l0_coefficient", "bandwidth"),
)

_BANDWIDTH = 1e-3
"""Width of the window for rows of mean squared norm 1 in long runs, and the least threshold at the start.

Source: https://arxiv.org/abs/2407.14435, appendix, where all thresholds start from it.
"""
_LONG = 1_000_000
"""Steps of a long run. In shorter ones the window is wider, as the root of how much: too few pre-activations fall into a
narrow one. In 1,000 steps 25 to 60 times the paper's width gave FVU .218 where the paper's gave .221, at equal l0.
"""
START_L0 = 8
"""Active latents at the start, in units of k.

Logarithms of thresholds move by the learning rate in a step: from the paper's start they are hundreds of steps too far from
where short runs have to end. At lr 3e-3 a run of 1,000 steps with k 8 ended at an l0 of 6.1.
"""
START_ROWS = 2048
"""Rows by which thresholds and biases are set at the start."""
_LEAST_THRESHOLD = 1e-8
"""Of an SAE that is begun from: an imported one may have thresholds at 0, which has no logarithm."""
_ACTIVE_BELOW = 0.2
"""Share of latents in the window or above it in the step before below which a step touches these only.

At d_in 576, d_sae 9216, batch 2048, two busy cores (``tests/benchmarks/step/paths.py``), the dense step took 3.4, 3.1, 3.7,
2.7, 2.2 and 1.6 times as long in bf16 at shares of .5, 1, 2, 5, 10 and 20%, and 8.3, 7.0, 6.9, 3.7, 2.3 and 2.1 in fp32.
"""


class JumpReLU(Penalised):
    """Squared error over variance, plus the number of active latents times a coefficient."""

    description = DESCRIPTION
    unit_norm_decoder = True
    max_grad_norm: float | None = None
    beta1 = 0.0
    tensors = ("threshold",)
    active_below = _ACTIVE_BELOW
    first_coefficient: float | None = 1e-3

    @override
    def given_coefficient(self, config: SAEConfig) -> float | None:
        return config.l0_coefficient

    @override
    def bandwidth(self, d_in: int, n_steps: int) -> float:
        return _BANDWIDTH * sqrt(d_in * max(1.0, _LONG / n_steps))

    @override
    def extra(self, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        return {"log_threshold": (config.d_sae,)}

    @override
    def start(
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        pre_acts = x[:START_ROWS] @ parameters.encoder.T + parameters.b_enc
        share = min(0.5, START_L0 * config.k / config.d_sae)
        level = pre_acts.flatten().kthvalue(max(1, round((1 - share) * pre_acts.numel()))).values
        parameters.extra["log_threshold"].copy_(level.clamp(min=_BANDWIDTH * x.shape[1] ** 0.5).log())

    @override
    def codes(self, at: LossContext, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> PenalisedCodes:
        threshold = p.extra["log_threshold"].exp()
        width = self._width(at.config, at.batch, p)
        count = count_above(pre_acts, threshold, width)
        total = at.total(pre_acts, lambda found: (found > threshold).sum().to(found.dtype))
        value, slope = self.price(at.config, at.batch, total / at.n_rows)
        # Linear in these rows' count, with the slope that the price has at the l0 of all workers' rows and latents.
        price = len(at.y) * value / at.mesh.latents.world_size + slope * (count - count.detach())
        n_entries = (pre_acts.detach() > window_start(threshold.detach(), width)).sum()
        return PenalisedCodes(jump(pre_acts, threshold, width), price * at.y.shape[1], n_entries)

    def price(
        self, config: SAEConfig, batch: StepBatch, l0: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """What ``l0`` active latents per row cost, in shares of the variance, and its derivative by ``l0``."""
        slope = torch.ones_like(l0) * self.coefficient(config, batch)
        return slope * l0, slope

    @override
    def active_step(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> StepOutcome:
        def price(l0: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = self.price(config, batch, l0)
            return value * len(parameters.b_dec), slope * len(parameters.b_dec)

        return _active_step(parameters, out, batch, mesh, self._width(config, batch, parameters), price)

    def _width(self, config: SAEConfig, batch: StepBatch, p: Parameters) -> float:
        return config.bandwidth or self.bandwidth(p.encoder.shape[1], batch.n_steps)

    @override
    def activate(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"], weights: Weights) -> Float[Tensor, "n d_sae"]:
        return pre_acts.where(pre_acts > weights.extra["threshold"], 0.0)

    @override
    def finished(self, parameters: Parameters, buffers: Mapping[str, Tensor], folding: Folding) -> dict[str, Tensor]:
        return {"threshold": folding.level(parameters.extra["log_threshold"].exp())}

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
        threshold = folding.own_level(finished["threshold"]).clamp(min=_LEAST_THRESHOLD)
        parameters.extra["log_threshold"].copy_(threshold.log())


def _active_step(
    parameters: Parameters,
    out: Parameters,
    batch: StepBatch,
    mesh: Mesh,
    width: float,
    price: Callable[[Float[Tensor, ""]], tuple[Tensor, Tensor]],
) -> StepOutcome:
    """Gradients of the mean over rows of the squared error, plus what the mean number of active latents costs.

    Args:
        parameters: the weights, with ``log_threshold``.
        out: gets the gradients of all but encoder, W_dec and b_enc, which are in the result.
        batch: this worker's rows.
        mesh: of all workers.
        width: of the window around each threshold.
        price: what so many active latents per row cost, and its derivative by them.
    """
    threshold = parameters.extra["log_threshold"].exp()
    step = begin_active_step(parameters, batch, mesh, window_start(threshold, width))
    n, z, level = len(step.x), step.entries.values, threshold[step.entries.latents]
    active = z > level
    entries = replace(step.entries, values=z.where(active, 0.0))
    rows, d_values = step.decode(entries)
    write_rest(out, rows, step.x)
    penalty, slope = price(step.all_reduced(active.sum().to(z.dtype)) / n)
    in_window = (z - level).abs() < width / 2
    # Times -1 / width the loss's derivative by t: the jump's height is t, and one more active latent raises l0 by 1 / n.
    jumps = entries.only(in_window).sum_by_latent((level * d_values + slope / n)[in_window], len(threshold))
    torch.mul(jumps, threshold / -width, out=out.extra["log_threshold"])
    kept = entries.only(active)
    gradients = step.by_latent(step.part(kept, d_values[active], rows))
    return StepOutcome(step.sums(rows.squared_error, penalty, kept), gradients, step.all_reduced(penalty.new_tensor(len(z))))


ARCHITECTURE = JumpReLU()
