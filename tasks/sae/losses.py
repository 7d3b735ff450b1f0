"""The losses, as plain differentiable definitions over dense codes.

Architectures on the dense path are trained on these directly; for those that select their codes they are the oracle
that the gradients of ``selection_step`` are tested against. Everything is in scaled units, where a row has
E||x||^2 = d_in.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import linear

from tasks.sae.config import SAEConfig
from tasks.sae.ops import top_k
from tasks.sae.parameters import Parameters


def squared_error(x: Float[Tensor, "n d_in"], x_hat: Float[Tensor, "n d_in"]) -> Float[Tensor, ""]:
    """Sum over rows of ||x - x_hat||^2."""
    return (x_hat - x).square().sum()


def weighted_l1(codes: Float[Tensor, "n d_sae"], W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, ""]:
    """Sum over rows of sum_i codes_i ||W_dec_i||, so that shrinking codes and growing the decoder gains nothing.

    Source: https://transformer-circuits.pub/2024/april-update
    """
    norms: Tensor = torch.linalg.vector_norm(W_dec, dim=1)
    return (codes @ norms).sum()


def top_k_codes(pre_acts: Float[Tensor, "n d_sae"], k: int) -> Float[Tensor, "n d_sae"]:
    """The k largest pre-activations of each row, rectified, with gradients to those that are positive."""
    indices = top_k(pre_acts.detach(), k).indices
    return torch.zeros_like(pre_acts).scatter(1, indices, pre_acts.gather(1, indices).relu())


def batch_top_k_codes(pre_acts: Float[Tensor, "n d_sae"], k: int) -> Float[Tensor, "n d_sae"]:
    """The n * k largest pre-activations of all rows together, rectified (https://arxiv.org/abs/2412.06410)."""
    flat = pre_acts.flatten()
    indices = flat.detach().topk(k * len(pre_acts)).indices
    return torch.zeros_like(flat).scatter(0, indices, flat[indices].relu()).view_as(pre_acts)


def selected_loss(
    config: SAEConfig,
    parameters: Parameters,
    x: Float[Tensor, "n d_in"],
    y: Float[Tensor, "n d_out"],
    dead: Bool[Tensor, "d_sae"],
    codes: Callable[[Tensor, int], Tensor] = top_k_codes,
    bounds: tuple[int, ...] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error over variance, averaged over nested prefixes of latents, plus AuxK.

    In AuxK dead latents rebuild what the live ones leave over. The residual is a constant to it, and its loss is relative
    to the residual's size, so that it weighs the same from the first step to the last. Sources:
    https://arxiv.org/abs/2406.04093, section 2.3 and appendix A.2; nested prefixes: https://arxiv.org/abs/2503.17547.
    """
    pre_acts = linear(x, parameters.encoder, parameters.b_enc)
    kept = codes(pre_acts, config.k)
    rest = parameters.b_dec
    if "W_skip" in parameters.extra:
        rest = rest + linear(x, parameters.extra["W_skip"])
    prefixes = [kept[:, :end] @ parameters.W_dec[:end] + rest for end in bounds or (config.d_sae,)]
    loss = torch.stack([squared_error(y, y_hat) for y_hat in prefixes]).mean() / y.numel()
    aux_k = min(resolved_aux_k(config), int(dead.sum()))
    residual = (y - prefixes[-1]).detach()
    if aux_k == 0 or not residual.any():
        return loss
    aux_codes = top_k_codes(pre_acts[:, dead], aux_k)
    aux = squared_error(residual, aux_codes @ parameters.W_dec[dead]) / residual.square().sum()
    return loss + config.aux_coefficient * aux


def resolved_aux_k(config: SAEConfig) -> int:
    """Dead latents per row in AuxK: twice k unless set, and at most d_sae.

    The paper's half of d_in made a step with many dead latents 2.4 times as long (d_in 576: 100 ms, not 42; twice k: 56),
    and left SmolLM2-135M's FVU after 1M tokens as it was to the fourth digit.
    """
    return min(2 * config.k, config.d_sae) if config.aux_k is None else config.aux_k
