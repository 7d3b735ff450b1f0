"""The jump at a learnt threshold, which has no gradient; it learns through a window around the threshold.

These are straight-through estimators. With z the pre-activation, t the threshold, e the window's width and
R = 1[|z - t| < e / 2]: d code / d t = -(t / e) R, and d 1[z > t] / d t = -(1 / e) R
(https://arxiv.org/abs/2407.14435, equations 11 and 12).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override


def jump(z: Tensor, threshold: Tensor, width: float, through_input: bool = False) -> Tensor:
    """z where it exceeds the threshold, else 0; with ``through_input`` the window passes gradients to z too."""
    codes: Tensor = _Jump.apply(z, threshold, width, through_input)  # type: ignore[no-untyped-call]
    return codes


def count_above(z: Tensor, threshold: Tensor, width: float) -> Tensor:
    """How many z exceed their threshold, in all; the window passes gradients to the threshold."""
    count: Tensor = _Count.apply(z, threshold, width)  # type: ignore[no-untyped-call]
    return count


def window_start(threshold: Float[Tensor, "d_sae"], width: float) -> Float[Tensor, "d_sae"]:
    """A level below each threshold's window, by as little as rounding needs that none in the window is missed."""
    return threshold - width / 2 - torch.finfo(threshold.dtype).eps * (threshold + width)


class _Jump(torch.autograd.Function):
    """z where z > threshold; with ``through_input`` the window passes gradients to z too, as to the threshold."""

    @staticmethod
    @override
    def forward(ctx: Any, z: Tensor, threshold: Tensor, width: float, through_input: bool) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width, ctx.through_input = width, through_input
        return z.where(z > threshold, 0.0)

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        z, threshold = ctx.saved_tensors
        jump = gradient * (threshold / ctx.width) * _window(z, threshold, ctx.width)
        to_input = gradient.where(z > threshold, 0.0)
        return to_input + jump if ctx.through_input else to_input, -jump.sum(0), None, None


class _Count(torch.autograd.Function):
    """Sum of 1[z > threshold]; the window passes gradients to the threshold."""

    @staticmethod
    @override
    def forward(ctx: Any, z: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width = width
        return (z > threshold).sum().to(z.dtype)

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        z, threshold = ctx.saved_tensors
        return None, -gradient / ctx.width * _window(z, threshold, ctx.width).sum(0), None


def _window(z: Tensor, threshold: Tensor, width: float) -> Tensor:
    return ((z - threshold).abs() < width / 2).to(z.dtype)
