"""What an SAE architecture is to the training step and to the finished module."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tasks.sae.config import SAEConfig
from tasks.sae.exchange import Exchange
from tasks.sae.ops import SparseCodes
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Scaling


@dataclass(slots=True)
class Scratch:
    """Large buffers kept from step to step: glibc maps and unmaps blocks above 32 MiB at every allocation."""

    buffers: dict[str, Tensor] = field(default_factory=dict)

    def empty(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of this shape, in the dtype and on the device of ``like``."""
        held = self.buffers.get(name)
        if held is None or held.shape != shape or held.dtype != like.dtype or held.device != like.device:
            held = self.buffers[name] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return held


@dataclass(frozen=True, slots=True)
class Batch:
    """One worker's rows of a step, and what the step has to know beside them."""

    raw: Float[Tensor, "n d_in"]
    """Raw activations, in any precision."""
    scaling: Scaling
    dead: Bool[Tensor, "d_sae"]
    """Latents that count as dead, the same on every worker."""
    sparsity: float = 1.0
    """Share of the sparsity coefficient in force, rising from 0 to 1 during its warm-up."""
    bf16: bool = True
    """Take the encoder's product in bfloat16; parameters stay in their own precision."""
    scratch: Scratch = field(default_factory=Scratch)


@dataclass(frozen=True, slots=True)
class StepSums:
    """Sums over all workers' rows of a step."""

    n_rows: int
    loss: Float[Tensor, ""]
    """The loss that was differentiated, a mean over rows."""
    squared_error: Float[Tensor, ""]
    """Sum over rows of the squared distance to the reconstruction, in scaled units (a row has d_in on average)."""
    n_active: Float[Tensor, ""]
    """Sum over rows of the number of active latents."""
    fired: Bool[Tensor, "d_sae"]
    """Latents active on at least one row."""


@runtime_checkable  # tests execute annotations
class Architecture(Protocol):
    """One way to turn pre-activations into sparse codes, with the loss that trains it."""

    unit_norm_decoder: bool
    """Hold decoder rows at norm 1: drop the gradient's part along each row, and renormalise after each update."""
    max_grad_norm: float | None
    """Clip the gradient to this norm before each update."""

    def activate(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
        """Codes of the finished SAE."""
        ...

    def activate_sparse(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"]) -> SparseCodes:
        """The same codes as values and indices, k per row."""
        ...

    def gradients(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange
    ) -> StepSums:
        """Overwrite ``out`` with the gradients of the loss over all workers' rows, the same on every worker."""
        ...
