"""Gated SAEs (https://arxiv.org/abs/2404.16014): one path decides which latents are active, another how much.

Both share the encoder's directions. The gate learns from L1 and from rebuilding the rows by itself with a frozen decoder,
so that the sparsity term does not shrink the codes.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from tasks.sae.architectures.active_step import begin_active_step
from tasks.sae.architectures.affine import write_rest
from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.names import Description
from tasks.sae.architectures.penalised import LossContext, Penalised, PenalisedCodes, StepOutcome
from tasks.sae.config import SAEConfig
from tasks.sae.kernels.types import AddedGradients
from tasks.sae.losses import squared_error
from tasks.sae.mesh import Mesh
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Folding, Weights

DESCRIPTION = Description(
    title="Gated",
    about="one half decides which latents are active, the other how much",
    k="aim",
    settings=("k", "l1_coefficient"),
)

_ACTIVE_BELOW = 0.2
"""Share of open gates in the step before below which a step touches these latents only.

At d_in 576, d_sae 9216, batch 2048, two busy cores (``tests/benchmarks/step/paths.py``), the dense step took 5.2, 4.7, 4.8,
3.5, 2.3 and 1.5 times as long in bf16 at shares of .5, 1, 2, 5, 10 and 20%, and 5.9, 6.1, 5.2, 4.5, 2.7 and 1.9 in fp32.
"""


class Gated(Penalised):
    """codes = 1[x W + b_enc > 0] * ReLU(exp(r_mag) * (x W) + b_mag).

    Adam's first beta is the usual .9. With the 0 of the paper's code, 300 steps at the default learning rate ended at an FVU
    of .87 and an F1 of .35 on 2,048 known features (d_in 256, d_sae 512, k 8); with .9 at .20 and .81.
    """

    description = DESCRIPTION
    unit_norm_decoder = True
    first_coefficient = 0.5
    tensors = ("r_mag", "b_mag")
    active_below = _ACTIVE_BELOW

    @override
    def extra(self, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        return {"r_mag": (config.d_sae,), "b_mag": (config.d_sae,)}

    @override
    def codes(self, at: LossContext, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> PenalisedCodes:
        codes = _gated(pre_acts, p.b_enc, p.extra)
        gate = pre_acts.relu()
        alone = at.whole(gate @ p.W_dec.detach()) + at.rest
        penalty = self.coefficient(at.config, at.batch) * gate.sum()
        return PenalisedCodes(codes, penalty, (gate > 0).sum(), squared_error(at.y, alone))

    @override
    def active_step(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> StepOutcome:
        return _active_step(parameters, out, batch, mesh, self.coefficient(config, batch))

    @override
    def activate(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"], weights: Weights) -> Float[Tensor, "n d_sae"]:
        return _gated(pre_acts, weights.b_enc, weights.extra)

    @override
    def finished(self, parameters: Parameters, buffers: Mapping[str, Tensor], folding: Folding) -> dict[str, Tensor]:
        r_mag = parameters.extra["r_mag"].double()
        return {"r_mag": r_mag, "b_mag": folding.bias(parameters.extra["b_mag"], r_mag.exp())}

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
        parameters.extra["r_mag"].copy_(finished["r_mag"])
        parameters.extra["b_mag"].copy_(folding.own_bias(finished["b_mag"], finished["r_mag"].double().exp()))


def _gated(pre_acts: Tensor, b_enc: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
    magnitude = (torch.exp(extra["r_mag"]) * (pre_acts - b_enc) + extra["b_mag"]).relu()
    return magnitude.where(pre_acts > 0, 0.0)


def _active_step(
    parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh, coefficient: float | Tensor
) -> StepOutcome:
    """Gradients of the mean over rows of both squared errors and ``coefficient`` times the sum of gates.

    Args:
        parameters: the weights, with ``r_mag`` and ``b_mag``.
        out: gets the gradients of all but encoder, W_dec and b_enc, which are in the result.
        batch: this worker's rows.
        mesh: of all workers.
        coefficient: of the sparsity term.
    """
    step = begin_active_step(parameters, batch, mesh, 0.0)
    gate, latents, d_sae = step.entries, step.entries.latents, len(parameters.b_enc)
    own, gain = gate.values - parameters.b_enc[latents], parameters.extra["r_mag"].exp()[latents]
    codes = replace(gate, values=(gain * own + parameters.extra["b_mag"][latents]).relu())
    (rows, d_values), (alone, d_alone) = step.decode(codes), step.decode(gate)
    write_rest(out, rows, step.x)
    price = coefficient / len(step.x)
    d_magnitude = d_values.where(codes.values > 0, 0.0)
    d_own, d_gate = d_magnitude * gain, d_alone + price
    out.extra["b_mag"].copy_(gate.sum_by_latent(d_magnitude, d_sae))
    out.extra["r_mag"].copy_(gate.sum_by_latent(d_own * own, d_sae))
    # Magnitudes do not see b_enc: what they add to its gradient beside the encoder's is taken away again.
    added = AddedGradients(bias=-gate.sum_by_latent(d_own, d_sae))
    gradients = step.by_latent(step.part(codes, d_gate + d_own, rows), added)
    penalty = alone.squared_error[-1].to(gate.values.dtype) / len(step.x) + price * step.all_reduced(gate.values.sum())
    sums = step.sums(rows.squared_error, penalty, codes.only(codes.values > 0))
    return StepOutcome(sums, gradients, step.all_reduced(penalty.new_tensor(len(latents))))


ARCHITECTURE = Gated()
