"""The optimizer's step by Adam, of which each worker takes a part where gradients are at few latents only.

Workers with other rows and equal latents (a mesh's ``data``) share these out: each sums up the gradients of its own latents
over all rows, and updates their weights and moments. On one machine these lie in memory that the workers share.
Else weights are gathered after each step, and the moments of the others' latents only when they are needed: for a
checkpoint, or where a step falls back to dense gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tasks.sae.architectures.base import Architecture
from tasks.sae.kernels.adam import fused_adam
from tasks.sae.kernels.backend import ByLatent
from tasks.sae.kernels.dispatch import backend_for
from tasks.sae.kernels.types import AdamStep
from tasks.sae.latent_parallel import all_reduced
from tasks.sae.mesh import Mesh, ProcessGroup, optimizer_shard
from tasks.sae.parameters import SHARED, Parameters, layout_of
from tasks.train.plan import Plan
from tasks.train.train_state import EPS, TrainState


def all_gather_moments(state: TrainState, mesh: Mesh) -> None:
    """Make Adam's moments whole on all workers that hold the same latents; all must come here after the same step."""
    if state.moments_are_sharded:
        mesh.data.all_gather_in_place([tensor for moments in state.moments for tensor in _of_latents(moments)])
        state.moments_are_sharded = False


def _of_latents(parameters: Parameters) -> list[Tensor]:
    """What sparse gradients are of, and what is shared out; the architecture's own parameters are small."""
    return [parameters.encoder, parameters.W_dec, parameters.b_enc]


def optimizer_step(state: TrainState, plan: Plan, kind: Architecture, by_latent: ByLatent | None, mesh: Mesh) -> Tensor:
    """Take Adam's step; the norm of the gradient before clipping."""
    d_sae, lr = len(state.parameters.b_enc), plan.lr_at(state.step)
    settings = AdamStep(lr=lr, betas=plan.betas, eps=EPS, step=state.step + 1, unit_norm=kind.unit_norm_decoder)
    shared_out = by_latent is not None or state.is_shared
    if not shared_out:  # gradients are everywhere then: to update all latents costs less than to send the weights
        all_gather_moments(state, mesh)
    own = _own_of(state, *(optimizer_shard(mesh.data, d_sae) if shared_out else (0, d_sae)))
    is_part = len(own.parameters.b_enc) < d_sae
    others = _of_none(state.gradients)

    def norm_of(square: Tensor) -> Tensor:
        if is_part:
            mesh.data.all_reduce(square)
        return _norm(square + others.square().sum(), state.gradients, mesh.latents)

    mesh.data.barrier()  # nobody reads these weights any more
    writes_copies = not is_part and backend_for(own.parameters.encoder).copies_weights
    if by_latent is not None and plan.max_grad_norm is None:  # no gradient of these is ever written to memory
        how = replace(settings, copies=state.scratch.copies.to_write) if writes_copies else settings
        norm = norm_of(by_latent.adam(own.parameters, own.exp_avg, own.exp_avg_sq, how))
    else:
        writes_copies = False
        if by_latent is not None:
            by_latent.write(own.parameters.W_dec, own.gradients)
        norm = _step_written(own, others, settings, norm_of, plan.max_grad_norm)
    if not state.is_shared or mesh.data.rank == 0:
        _step_others(state, settings)
    if writes_copies:  # only now: b_dec lies in the same memory as the weights that were copied
        state.scratch.copies.written(state.parameters)
    if state.is_shared:
        mesh.data.barrier()
    elif is_part:
        state.moments_are_sharded = True
        mesh.data.all_gather_in_place(_of_latents(state.parameters))
    return norm


def _step_others(state: TrainState, settings: AdamStep) -> None:
    """Update what belongs to no latent, or is the architecture's own.

    By Adam's function and not by its class, which imports torch._dynamo when it is made: 2.2 s of CPU a worker (Zen 3).
    """
    first, second = ([_of_none(moments)] for moments in state.moments)
    fused_adam([_of_none(state.parameters)], [_of_none(state.gradients)], first, second, settings)


def _of_none(parameters: Parameters) -> Tensor:
    """Flat view of what belongs to no latent, or is the architecture's own."""
    return parameters.flat[layout_of(parameters).by_latent :]


@dataclass(frozen=True, slots=True)
class _Own:
    """Of encoder, W_dec and b_enc what one worker updates; all else in these is not its own."""

    parameters: Parameters
    gradients: Parameters
    exp_avg: Parameters
    exp_avg_sq: Parameters


def _own_of(state: TrainState, low: int, high: int) -> _Own:
    """Views of the latents from ``low`` to ``high``."""

    def within(p: Parameters) -> Parameters:
        encoder, W_dec, b_enc = (tensor[low:high] for tensor in _of_latents(p))
        return replace(p, encoder=encoder, W_dec=W_dec, b_enc=b_enc)

    return _Own(*map(within, (state.parameters, state.gradients, *state.moments)))


def _step_written(
    own: _Own, others: Tensor, settings: AdamStep, norm_of: Callable[[Tensor], Tensor], most: float | None
) -> Tensor:
    """Update one's own latents by gradients that are there; those of the parameters that belong to none are only clipped."""
    gradients = _of_latents(own.gradients)
    if settings.unit_norm:
        _drop_parallel_part(own.gradients.W_dec, own.parameters.W_dec)
    norm = norm_of(torch.stack([tensor.square().sum() for tensor in gradients]).sum())
    if most is not None:
        for tensor in (*gradients, others):
            tensor.mul_(_clipping(norm, most))
    moments = _of_latents(own.exp_avg), _of_latents(own.exp_avg_sq)
    backend_for(own.parameters.encoder).adam_rows(_of_latents(own.parameters), gradients, *moments, settings)
    if settings.unit_norm:
        own.parameters.W_dec.div_(own.parameters.W_dec.norm(dim=1, keepdim=True))
    return norm


def _clipping(norm: Tensor, most: float) -> Tensor:
    return (most / norm).clamp(max=1.0)


def _norm(square: Tensor, gradients: Parameters, latents: ProcessGroup) -> Tensor:
    """Norm of the gradient of all workers' latents; ``square`` is that of this one's, with what belongs to no latent."""
    shared = [gradients.b_dec, *(tensor for name, tensor in gradients.extra.items() if name in SHARED)]
    once = torch.stack([tensor.square().sum() for tensor in shared]).sum()
    return (all_reduced(square - once, latents) + once).sqrt()


def _drop_parallel_part(gradient: Tensor, rows: Tensor) -> None:
    """Take from each row of a gradient its part along a unit row, which renormalising would undo anyway."""
    along: Tensor = torch.linalg.vecdot(gradient, rows)
    gradient.addcmul_(rows, along[:, None], value=-1)
