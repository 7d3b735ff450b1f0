"""A sparsity coefficient that finds itself: it rises while more than k latents are active, and falls while fewer are.

Published coefficients give the sparsity that they gave on the data, the width and the length of run that they were found
with. Where ``sae`` leaves the coefficient empty, it is steered instead, so that training ends at an l0 of k.

The l0 aimed at falls from that of the first step to k on a logarithmic scale, as far as the sparsity's warm-up has come,
and in the last part of the run the coefficient stays as it is.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

RATE = 0.02
"""Largest change of the coefficient's logarithm in a step."""
GAIN = 0.04
"""Change of the coefficient's logarithm in a step, per unit of excess of the logarithm of l0."""
MEMORY = 0.9
"""Weight of the steps before in the running mean of l0."""
HELD_FROM = 0.95
"""Share of the run from which the coefficient is held."""


def steering(start: float) -> dict[str, Tensor]:
    """What is kept from step to step: the coefficient, and the l0 of the first step and of late (0: none yet)."""
    return {
        "coefficient": torch.full((1,), start, dtype=torch.float64),
        "first_l0": torch.zeros(1, dtype=torch.float64),
        "l0": torch.zeros(1, dtype=torch.float64),
    }


def steer(buffers: Mapping[str, Tensor], l0: Tensor, k: int, warmed_up: float, progress: float) -> None:
    """Move the coefficient after a step.

    Args:
        buffers: as ``steering`` made them; updated in place.
        l0: mean number of active latents over all workers' rows of the step.
        k: where l0 has to end.
        warmed_up: share of the sparsity's warm-up that is done.
        progress: share of the run that is done.
    """
    now = l0.double().clamp(min=0.01)  # so that a step without any active latent has a logarithm
    for name, moved in (("first_l0", buffers["first_l0"]), ("l0", buffers["l0"] * MEMORY + now * (1 - MEMORY))):
        buffers[name].copy_(torch.where(buffers[name] > 0, moved, now))
    if progress >= HELD_FROM:
        return
    target = (1 - warmed_up) * buffers["first_l0"].log() + warmed_up * torch.full_like(buffers["l0"], k).log()
    excess = buffers["l0"].log() - target
    buffers["coefficient"].mul_((GAIN * excess).clamp(-RATE, RATE).exp())
