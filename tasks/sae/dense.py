"""The step of architectures whose codes are found by comparing each pre-activation with a level: dense autograd.

An architecture says what its codes are and what they cost; squared error, gradients and sums over workers are shared.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from tasks.sae.architecture import Architecture, Batch, StepSums
from tasks.sae.config import SAEConfig
from tasks.sae.exchange import Exchange
from tasks.sae.losses import squared_error
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Weights
from tasks.sae.sparse import ByLatent
from tasks.sae.steering import steer, steering


class Codes(NamedTuple):
    """What an architecture makes of a worker's rows."""

    codes: Float[Tensor, "n d_sae"]
    penalty: Float[Tensor, ""]
    """Sum over rows of what is added to the squared error."""


@dataclass(frozen=True, slots=True)
class Here:
    """What a loss may look at beside the parameters."""

    config: SAEConfig
    batch: Batch
    exchange: Exchange
    y: Float[Tensor, "n d_out"]
    """Scaled target."""
    rest: Float[Tensor, "n d_out"] | Float[Tensor, "d_out"]
    """What is added to the decoded latents, as a constant."""


class DenseArchitecture(Architecture):
    """Squared error plus a penalty, a mean over rows, differentiated by autograd."""

    unit_norm_decoder = False
    first_coefficient: float | None = None
    """The sparsity coefficient from which the search for it starts, where there is one to be found."""

    def given_coefficient(self, config: SAEConfig) -> float | None:
        """The sparsity coefficient of the settings."""
        return config.l1_coefficient

    def steers(self, config: SAEConfig) -> bool:  # noqa: D102
        return self.first_coefficient is not None and self.given_coefficient(config) is None

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:  # noqa: D102
        return steering(self.first_coefficient) if self.first_coefficient is not None and self.steers(config) else {}

    def coefficient(self, config: SAEConfig, batch: Batch) -> float | Tensor:
        """The sparsity coefficient in force."""
        given = self.given_coefficient(config)
        return batch.buffers["coefficient"][0].to(batch.scaling.mean.dtype) if given is None else given * batch.sparsity

    def codes(self, at: Here, p: Parameters, pre_acts: Float[Tensor, "n d_sae"]) -> Codes:
        """Codes and their penalty, differentiable with respect to ``p`` and ``pre_acts``."""
        raise NotImplementedError

    def gradients(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange
    ) -> tuple[StepSums, ByLatent | None]:
        sums, by_latent = self.step(config, parameters, out, batch, exchange)
        if self.steers(config):
            steer(batch, sums.n_active / sums.n_rows, config.k)
        return sums, by_latent

    def step(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange
    ) -> tuple[StepSums, ByLatent | None]:
        """The gradients of the loss; by autograd, unless an architecture knows better."""
        x, y = batch.rows(batch.raw, parameters.encoder.shape[1])
        n_rows = len(x) * exchange.world_size
        leaves = _leaves(parameters)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=batch.bf16):
            pre_acts = linear(x, leaves.encoder, leaves.b_enc)
        rest = leaves.b_dec
        if "W_skip" in leaves.extra:
            rest = rest + linear(x, leaves.extra["W_skip"])
        codes, penalty = self.codes(Here(config, batch, exchange, y, rest.detach()), leaves, pre_acts.to(x.dtype))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=batch.bf16):
            y_hat = codes @ leaves.W_dec
        error = squared_error(y, y_hat.to(x.dtype) + rest)
        loss = (error + penalty) / n_rows
        _differentiate(loss, leaves, out)
        return _sums(out, codes.detach(), loss.detach(), error.detach(), n_rows, exchange), None

    def activate(  # noqa: D102
        self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"], weights: Weights
    ) -> Float[Tensor, "n d_sae"]:
        return pre_acts.relu()


def _leaves(parameters: Parameters) -> Parameters:
    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_()

    return replace(
        parameters,
        encoder=leaf(parameters.encoder),
        W_dec=leaf(parameters.W_dec),
        b_enc=leaf(parameters.b_enc),
        b_dec=leaf(parameters.b_dec),
        extra={name: leaf(tensor) for name, tensor in parameters.extra.items()},
    )


def _parts(parameters: Parameters) -> list[Tensor]:
    return [parameters.encoder, parameters.W_dec, parameters.b_enc, parameters.b_dec, *parameters.extra.values()]


def _differentiate(loss: Tensor, leaves: Parameters, out: Parameters) -> None:
    """Write the gradients of the loss into ``out``; 0 where it does not depend on a parameter."""
    gradients = torch.autograd.grad(loss, _parts(leaves), allow_unused=True, materialize_grads=True)
    for target, gradient in zip(_parts(out), gradients, strict=True):
        target.copy_(gradient)


def _sums(out: Parameters, codes: Tensor, loss: Tensor, error: Tensor, n_rows: int, exchange: Exchange) -> StepSums:
    """One sum over workers of the gradients and all statistics."""
    active = (codes > 0).sum(0).to(out.flat.dtype)
    if exchange.world_size == 1:
        return StepSums(n_rows, loss, error, active.sum(), active > 0)
    sums = torch.cat([out.flat, active, loss[None], error[None]])
    exchange.add_up(sums)
    out.flat.copy_(sums[: len(out.flat)])
    counts = sums[len(out.flat) : -2]
    return StepSums(n_rows, sums[-2], sums[-1], counts.sum(), counts > 0)
