"""What an SAE architecture is to the training step and to the finished module."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import SupportsInt

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tasks.errors import InputError
from tasks.sae.architectures.names import Description
from tasks.sae.config import SAEConfig
from tasks.sae.kernels.backend import ByLatent
from tasks.sae.mesh import Mesh
from tasks.sae.ops import SparseCodes
from tasks.sae.parameters import Parameters
from tasks.sae.scaling import Folding, Scaling, Weights
from tasks.sae.weight_copies import WeightCopies


@dataclass(slots=True)
class Scratch:
    """Large buffers kept from step to step: glibc maps and unmaps blocks above 32 MiB at every allocation."""

    buffers: dict[str, Tensor] = field(default_factory=dict)
    copies: WeightCopies = field(default_factory=WeightCopies)
    most_rows: int | None = None
    """Rows that go through a step's largest products at once, learnt by running out of memory; None before that."""

    def empty(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of this shape, in the dtype and on the device of ``like``."""
        held = self.buffers.get(name)
        if held is None or held.shape != shape or held.dtype != like.dtype or held.device != like.device:
            held = self.buffers[name] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return held


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """One worker's rows of a step, and what the step has to know beside them."""

    raw: Float[Tensor, "n width"]
    """Raw activations, in any precision: the input's features and, where something else is rebuilt, its features after."""
    scaling: Scaling
    dead: Bool[Tensor, "d_sae"]
    """Latents that count as dead, the same on every worker that holds them."""
    n_dead: SupportsInt | None = None
    """How many do of all workers' latents; empty: as many as here, where all latents are. Asked once work is under way."""
    k: int = 1
    """Latents per row in force, where the architecture has such a number."""
    sparsity: float = 1.0
    """Share of the sparsity coefficient in force, rising from 0 to 1 during its warm-up."""
    progress: float = 0.0
    """Share of the run that is done."""
    n_steps: int = 1000
    """Steps of the whole run."""
    bf16: bool = True
    """Take the encoder's product in bfloat16; parameters stay in their own precision."""
    scratch: Scratch = field(default_factory=Scratch)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    """What the architecture keeps from step to step beside its parameters; updated in place, alike on every worker."""

    def rows(self, raw: Float[Tensor, "n width"], d_in: int) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_out"]]:
        """Scaled input and scaled target (which is the input, unless ``raw`` is wider than ``d_in``)."""
        scaled = self.scaling.apply(raw)
        if scaled.shape[1] == d_in:
            return scaled, scaled
        return scaled[:, :d_in].contiguous(), scaled[:, d_in:].contiguous()


@dataclass(frozen=True, slots=True)
class StepSums:
    """Sums over all workers' rows of a step."""

    n_rows: int
    loss: Float[Tensor, ""]
    """The loss that was differentiated, a mean over rows."""
    squared_error: Float[Tensor, ""]
    """Sum over rows of the squared distance to the reconstruction, in scaled units (a row has d_out on average)."""
    n_active: Float[Tensor, ""]
    """Sum over rows of the number of active latents."""
    fired: Bool[Tensor, "d_sae"]
    """Latents active on at least one row."""


class Architecture:
    """One way to turn pre-activations into sparse codes, with the loss that trains it."""

    description: Description
    """What it says of itself; in its file too, where it is read without torch."""
    unit_norm_decoder = True
    """Hold decoder rows at norm 1: drop the gradient's part along each row, and renormalise after each update."""
    max_grad_norm: float | None = None
    """Clip the gradient to this norm before each update."""
    beta1 = 0.9
    """Decay per step of Adam's mean of gradients."""
    lr = 3e-3
    """The usual peak learning rate for 4608 latents and 1,000 steps."""
    lr_by_length = 0.25
    """The usual learning rate falls as this power of the number of steps."""
    lr_follows_width = True
    """Below the width that it was measured at, the usual learning rate rises as it falls above."""
    leans_on_rows = False
    """Each latent starts between a random direction and a training row, so that none is far from all data."""
    dead_share = 1 / 100
    """Share of the run's rows without firing after which a latent usually counts as dead."""
    revives = False
    """Dead latents learn to rebuild what is left over (AuxK)."""
    resamples = False
    """Dead latents are drawn anew at a few points of the run."""
    tensors: tuple[str, ...] = ()
    """Names of the finished SAE's tensors beside the four."""
    sparsity_warmup: float | None = None
    """Share of the run over which the sparsity coefficient rises; None: as long as the learning rate's warm-up."""

    @property
    def keeps_k(self) -> bool:
        """Whether the finished SAE keeps exactly k latents of each row."""
        return self.description.k == "row"

    def extra(self, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of trained parameters beside encoder, W_dec, b_enc and b_dec."""
        return {}

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        """What is kept from step to step beside the parameters, before the first step."""
        return {}

    def bandwidth(self, d_in: int, n_steps: int) -> float | None:
        """Width of the window through which thresholds learn, for rows of ``d_in`` features and a run of ``n_steps``."""
        return None

    def steers(self, config: SAEConfig) -> bool:
        """Whether training looks for the sparsity coefficient with which k latents are active."""
        return False

    def start(
        self, config: SAEConfig, parameters: Parameters, x: Float[Tensor, "m d_in"], y: Float[Tensor, "m d_out"]
    ) -> None:
        """Finish the initial weights, of unit norm so far, from scaled training rows ``x`` and what is to be rebuilt.

        An autoencoder's are tied, and its ``y`` is ``x`` itself.
        """

    def gradients(
        self, config: SAEConfig, parameters: Parameters, out: Parameters, batch: StepBatch, mesh: Mesh
    ) -> tuple[StepSums, ByLatent | None]:
        """Overwrite ``out`` with the gradients of the loss over all workers' rows, the same on every worker.

        Where the second result is not None, it holds the gradients of encoder, W_dec and b_enc, and ``out`` lacks them.
        """
        raise NotImplementedError

    def activate(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"], weights: Weights) -> Float[Tensor, "n d_sae"]:
        """Codes of the finished SAE."""
        raise NotImplementedError

    def activate_sparse(self, config: SAEConfig, pre_acts: Float[Tensor, "n d_sae"]) -> SparseCodes:
        """Codes of the finished SAE as values and indices, k per row."""
        raise InputError(f"sae.arch is {config.arch!r}, which keeps no fixed number of latents; encode_sparse is for topk.")

    def finished(self, parameters: Parameters, buffers: Mapping[str, Tensor], folding: Folding) -> dict[str, Tensor]:
        """The finished SAE's tensors beside the four, for raw activations."""
        return {}

    def take_over(
        self,
        config: SAEConfig,
        parameters: Parameters,
        buffers: Mapping[str, Tensor],
        finished: Mapping[str, Tensor],
        folding: Folding,
        x: Float[Tensor, "m d_in"],
    ) -> None:
        """The inverse of ``finished``: fill in what training holds beside the four tensors, which are there, in place.

        Args:
            config: of the training that begins.
            parameters: of the finished SAE, for scaled rows.
            buffers: as before the first step.
            finished: the finished SAE's tensors beside the four, for raw activations.
            folding: between the two.
            x: some scaled rows.
        """
