"""TopK with AuxK (https://arxiv.org/abs/2406.04093), its gradients written out over the kept latents only.

Workers share the choice of latents, which costs as much as all the rest: each encodes its own rows, then rows and codes
(not gradients) are gathered, and every worker takes the same update over the whole batch. That moves 2.5 MB a step at
n 1024, d_in 576, where the gradients of d_sae 4608 are 21 MB, and leaves all workers with equal bits.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tasks.sae.architecture import Batch, StepSums
from tasks.sae.config import SAEConfig
from tasks.sae.exchange import Exchange
from tasks.sae.losses import resolved_aux_k
from tasks.sae.ops import SparseCodes, by_latent, decode_sparse_with_gradient, densify, top_k
from tasks.sae.parameters import Parameters


class TopK:
    """The k largest pre-activations of each row, rectified."""

    unit_norm_decoder = True
    max_grad_norm: float | None = None

    def activate(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:  # noqa: D102
        return densify(top_k(pre_acts, config.k), pre_acts.shape[1])

    def activate_sparse(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"]) -> SparseCodes:  # noqa: D102
        return top_k(pre_acts, config.k)

    def gradients(  # noqa: D102
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange
    ) -> StepSums:
        aux_k = min(resolved_aux_k(config), int(batch.dead.sum()))
        pre_acts = _encode(parameters, batch)
        shares = [batch.raw, *_select(pre_acts, config.k, parameters)]
        if aux_k:
            shares += _select_dead(pre_acts, aux_k, batch.dead, parameters)
        raw, *selected = exchange.gather(shares)
        x = batch.scaling.apply(raw)
        codes = SparseCodes(selected[0], selected[1].long())
        residual, squared_error = _reconstruction(parameters, out, x, codes)
        loss = squared_error / x.numel()
        if aux_k:
            dead_codes = SparseCodes(selected[2], selected[3].long())
            loss = loss + _revival(config, parameters, out, x, residual, squared_error, dead_codes)
        return StepSums(len(x), loss, squared_error, (codes.values > 0).sum().to(x.dtype), _fired(codes, config.d_sae))


def _encode(parameters: Parameters, batch: Batch) -> Tensor:
    x, encoder, b_enc = batch.scaling.apply(batch.raw), parameters.encoder, parameters.b_enc
    if batch.bf16:  # 15 ms against 62; the copy of the weights costs 0.4
        x, encoder, b_enc = x.bfloat16(), encoder.bfloat16(), b_enc.bfloat16()
    out = batch.scratch.empty("pre_acts", (len(x), len(encoder)), like=x)
    return torch.addmm(b_enc, x, encoder.T, out=out)


def _select(pre_acts: Tensor, k: int, parameters: Parameters) -> list[Tensor]:
    codes = top_k(pre_acts, k)
    return [codes.values.to(parameters.flat.dtype), codes.indices.int()]


def _select_dead(pre_acts: Tensor, aux_k: int, dead: Tensor, parameters: Parameters) -> list[Tensor]:
    latents = dead.nonzero().squeeze(1)
    values, places = _select(pre_acts[:, latents], aux_k, parameters)
    return [values, latents[places.long()].int()]


def _reconstruction(parameters: Parameters, out: Parameters, x: Tensor, codes: SparseCodes) -> tuple[Tensor, Tensor]:
    """Write the gradients of the mean squared error over variance; the residual x - x_hat and its square."""
    decoded, pull_back = decode_sparse_with_gradient(codes, parameters.W_dec)
    residual = (x - parameters.b_dec).sub_(decoded)
    gradient = residual * (-2 / x.numel())
    _write(parameters, out, x, codes, gradient, pull_back(gradient), add=False)
    out.b_dec.copy_(gradient.sum(0))
    return residual, residual.flatten().dot(residual.flatten())


def _revival(
    config: SAEConfig,
    parameters: Parameters,
    out: Parameters,
    x: Tensor,
    residual: Tensor,
    size: Tensor,
    codes: SparseCodes,
) -> Tensor:
    """Add the gradients of AuxK, in which dead latents rebuild a residual of squared norm ``size``; the loss."""
    decoded, pull_back = decode_sparse_with_gradient(codes, parameters.W_dec)
    missing = decoded - residual
    weight = torch.where(size > 0, config.aux_coefficient / size, 0.0)
    gradient = missing * (2 * weight)
    _write(parameters, out, x, codes, gradient, pull_back(gradient), add=True)
    return missing.square().sum() * weight


def _write(
    parameters: Parameters, out: Parameters, x: Tensor, codes: SparseCodes, gradient: Tensor, d_values: Tensor, add: bool
) -> None:
    entries = by_latent(codes.indices, len(parameters.b_enc))
    entries.product(codes.values, gradient, out.W_dec, add)
    entries.product(d_values, x, out.encoder, add)
    entries.product(d_values, torch.ones_like(x[:, :1]), out.b_enc.unsqueeze(1), add)


def _fired(codes: SparseCodes, d_sae: int) -> Bool[Tensor, "{d_sae}"]:
    fired = torch.zeros(d_sae, dtype=torch.bool, device=codes.values.device)
    fired[codes.indices[codes.values > 0]] = True
    return fired
