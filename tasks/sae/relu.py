"""Architectures whose codes are the positive pre-activations: ``l1``, with sparsity, and ``dense``, without."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.errors import InputError
from tasks.sae.architecture import Batch, StepSums
from tasks.sae.config import SAEConfig
from tasks.sae.exchange import Exchange
from tasks.sae.losses import relu_codes, squared_error, weighted_l1
from tasks.sae.ops import SparseCodes
from tasks.sae.parameters import Parameters

Penalty = Callable[[Tensor, Tensor], Tensor]
"""(codes, W_dec) -> sum over rows."""


class L1:
    """Squared error plus L1 on codes weighted by decoder row norms (https://transformer-circuits.pub/2024/april-update)."""

    unit_norm_decoder = False
    max_grad_norm: float | None = 1.0

    def activate(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:  # noqa: D102
        return pre_acts.relu()

    def activate_sparse(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"]) -> SparseCodes:  # noqa: D102
        raise InputError(f"sae.arch is {config.arch!r}, which keeps no fixed number of latents; encode_sparse is for topk.")

    def gradients(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange
    ) -> StepSums:
        coefficient = config.l1_coefficient * batch.sparsity
        return _gradients(parameters, out, batch, exchange, lambda codes, W_dec: coefficient * weighted_l1(codes, W_dec))


class Dense(L1):
    """A plain autoencoder: the same parts, and nothing that asks for sparsity. For comparison."""

    def gradients(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange
    ) -> StepSums:
        return _gradients(parameters, out, batch, exchange, lambda codes, W_dec: codes.new_zeros(()))


def _gradients(parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange, penalty: Penalty) -> StepSums:
    """Dense autograd over this worker's rows, then one sum over workers of the gradients and all statistics."""
    x = batch.scaling.apply(batch.raw)
    n_rows = len(x) * exchange.world_size
    leaves = Parameters(
        parameters.flat,
        *(p.detach().requires_grad_() for p in (parameters.encoder, parameters.W_dec, parameters.b_enc, parameters.b_dec)),
    )
    with torch.autocast(x.device.type, torch.bfloat16, enabled=batch.bf16):
        codes = relu_codes(leaves, x)
        x_hat = codes @ leaves.W_dec
    codes, error = codes.to(x.dtype), squared_error(x, x_hat.to(x.dtype) + leaves.b_dec)
    loss = (error + penalty(codes, leaves.W_dec)) / n_rows
    parts = (leaves.encoder, leaves.W_dec, leaves.b_enc, leaves.b_dec)
    for target, gradient in zip(
        (out.encoder, out.W_dec, out.b_enc, out.b_dec), torch.autograd.grad(loss, parts), strict=True
    ):
        target.copy_(gradient)
    active = codes.detach() > 0
    sums = torch.cat([out.flat, active.sum(0).to(x.dtype), loss.detach()[None], error.detach()[None]])
    exchange.add_up(sums)
    out.flat.copy_(sums[: len(out.flat)])
    counts = sums[len(out.flat) : -2]
    return StepSums(n_rows, sums[-2], sums[-1], counts.sum(), counts > 0)
