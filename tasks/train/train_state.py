"""Everything that training changes from step to step, and where it starts from."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.sae.architectures.base import Scratch
from tasks.sae.architectures.registry import architecture
from tasks.sae.init import initial_parameters
from tasks.sae.mesh import Mesh, ProcessGroup, optimizer_shard
from tasks.sae.parameters import Parameters, layout_of, part_of, view, zeros
from tasks.train.plan import Plan

EPS = 6.25e-10
"""Adam's, as OpenAI has it: gradients of a mean over rows and features are small (https://arxiv.org/abs/2406.04093)."""


@dataclass(slots=True)
class TrainState:
    """Everything that a step changes, the same on every worker."""

    parameters: Parameters
    moments: tuple[Parameters, Parameters]
    """Adam's running means of the gradient and of its square."""
    silent: Tensor
    """int64 [d_sae]: rows seen, over all workers, since each latent last fired."""
    buffers: dict[str, Tensor]
    """The architecture's own, such as the threshold of batchtopk."""
    step: int
    """Steps done."""
    gradients: Parameters
    moments_are_sharded: bool = False
    """The moments of latents that other workers update are out of date here; ``all_gather_moments`` fetches them."""
    is_shared: bool = False
    """Parameters and moments lie in memory that workers with other rows share: each writes its own part."""
    averaged: Tensor | None = None
    """Exponential moving average of all parameters, if the plan asks for it."""
    scratch: Scratch = field(default_factory=Scratch)


def state_from(
    parameters: Parameters, plan: Plan, moments: tuple[Tensor, Tensor] | None = None, step: int = 0
) -> TrainState:
    """The state after ``step`` steps, with these parameters and (flat) Adam moments; empty: those before the first step."""
    flat, device, layout = parameters.flat, parameters.flat.device, layout_of(parameters)
    gradients = zeros(layout, flat.dtype, device)
    first, second = (view(m, layout) for m in moments or (torch.zeros_like(flat), torch.zeros_like(flat)))
    kind = architecture(plan.sae.arch)
    silent = torch.zeros(layout.d_sae, dtype=torch.int64, device=device)
    buffers = {name: tensor.to(device) for name, tensor in kind.buffers(plan.sae).items()}
    averaged = flat.clone() if plan.ema_decay else None
    return TrainState(parameters, (first, second), silent, buffers, step, gradients, averaged=averaged)


def share_state(state: TrainState, plan: Plan, mesh: Mesh) -> TrainState:
    """Move weights and moments into memory that the workers with other rows share, where they can; all come here.

    A checkpoint may be read from them at leisure: no step is taken without the worker that reads.
    """
    parameters = state.parameters
    if optimizer_shard(mesh.data, len(parameters.b_enc)) == (0, len(parameters.b_enc)):
        return state
    found = [mesh.data.share_memory(part.flat) for part in (parameters, *state.moments)]
    flat, first, second = found
    if flat is None or first is None or second is None:
        return state
    moved = state_from(view(flat, layout_of(parameters)), plan, (first, second), state.step)
    moved.silent, moved.buffers, moved.averaged, moved.is_shared = state.silent, state.buffers, state.averaged, True
    return moved


def initial_state(
    plan: Plan, sample: Tensor, device: str | torch.device = "cpu", latents: ProcessGroup | None = None
) -> TrainState:
    """The state before the first step, from the plan's seed and scaled training rows ``sample [m, d_in (+ d_out)]``.

    Of ``latents``, the workers that hold some latents each, every one starts from its part of the same weights.
    """
    d_in = plan.layout.d_in
    x, y = sample[:, :d_in], sample[:, d_in:] if sample.shape[1] > d_in else None
    parameters = initial_parameters(plan.sae, plan.layout, plan.seed, x, y)
    if latents is not None and latents.world_size > 1:
        parameters = part_of(parameters, latents.rank, latents.world_size)
    return state_from(view(parameters.flat.to(device), layout_of(parameters)), plan)
