"""A sparsity coefficient that finds itself: it rises while more than k latents are active, and falls while fewer are.

Published coefficients give the sparsity that they gave on the data, the width and the length of run that they were found
with. Where ``sae`` leaves the coefficient empty, it is steered instead, so that training ends at an l0 of k.

The l0 aimed at falls from that of the first step to k on a logarithmic scale, as far as the sparsity's warm-up has come,
and in the last part of the run the coefficient stays as it is.
"""

from math import log

import torch
from torch import Tensor

from tasks.sae.architectures.base import StepBatch

GAIN = 40.0
"""Change of the coefficient's logarithm in a run, per unit of excess of the logarithm of l0: .04 in one of 1,000 steps.

An SAE answers tens of steps late, and later the lower its learning rate. In runs of 1,000 steps at a ninth of the usual
rate l0 swings around k; longer runs, which have lower rates, are steered as much more slowly.
"""
LARGEST_GAIN = 0.04
"""In a step."""
LARGEST_EXCESS = 0.5
"""Of the logarithm of l0; beyond, the coefficient moves no faster."""
DAMPING = 3.0
"""Change of the coefficient's logarithm per change of the excess: without it l0 swings around k.

With 1 JumpReLU ended at 9.3 active latents for k 8 after 977 steps on known features, with 3 at 8.4."""
MEMORY = 0.9
"""Weight of the steps before in the running mean of l0."""
HELD_FROM = 0.95
"""Share of the run from which the coefficient is held."""


def controller_buffers(start: float) -> dict[str, Tensor]:
    """What is kept from step to step: the coefficient, the l0 of the first step and of late (0: none yet), its excess."""
    zeros = {name: torch.zeros(1, dtype=torch.float64) for name in ("first_l0", "l0", "excess")}
    return {"coefficient": torch.full((1,), start, dtype=torch.float64), **zeros}


def steer(batch: StepBatch, l0: Tensor, k: int) -> None:
    """Move the coefficient, which is in the batch's buffers, after a step.

    Args:
        batch: of the step; how far its sparsity has warmed up says where between the first step's l0 and k to aim.
        l0: mean number of active latents over all workers' rows of the step.
        k: where l0 has to end.
    """
    buffers = batch.buffers
    now = l0.double().clamp(min=0.01)  # so that a step without any active latent has a logarithm
    for name, moved in (("first_l0", buffers["first_l0"]), ("l0", buffers["l0"] * MEMORY + now * (1 - MEMORY))):
        buffers[name].copy_(torch.where(buffers[name] > 0, moved, now))
    if batch.progress >= HELD_FROM:
        return
    # Between k and what is aimed at so far nothing is wrong: a coefficient that fell there would be missed later.
    target = (1 - batch.sparsity) * buffers["first_l0"].log() + batch.sparsity * log(k)
    over, under = (buffers["l0"].log() - target).clamp(min=0), (buffers["l0"].log() - log(k)).clamp(max=0)
    excess = (over + under).clamp(-LARGEST_EXCESS, LARGEST_EXCESS)
    gain = min(LARGEST_GAIN, GAIN / batch.n_steps)
    buffers["coefficient"].mul_((gain * excess + DAMPING * (excess - buffers["excess"])).exp())
    buffers["excess"].copy_(excess)
