"""Adam's update as torch fuses it, on any device."""

import torch
from torch import Tensor
from torch.optim.adam import adam

from tasks.sae.kernels.types import AdamStep


def fused_adam(
    parameters: list[Tensor], gradients: list[Tensor], exp_avg: list[Tensor], exp_avg_sq: list[Tensor], settings: AdamStep
) -> None:
    """Update some tensors and their two moments in place; ``settings.unit_norm`` is left to the caller."""
    device = parameters[0].device
    steps = [torch.full((), float(settings.step - 1), device=device) for _ in parameters]
    adam(
        parameters,
        gradients,
        exp_avg,
        exp_avg_sq,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=settings.betas[0],
        beta2=settings.betas[1],
        lr=settings.lr,
        weight_decay=0.0,
        eps=settings.eps,
        maximize=False,
    )
