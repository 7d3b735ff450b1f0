"""One update of an SAE: explicit state in, the same state advanced by one step out. No input, no output, no clock."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.sae.across import total
from tasks.sae.architecture import Architecture, Batch, Scratch, StepSums
from tasks.sae.exchange import Exchange, Group
from tasks.sae.init import initial_parameters
from tasks.sae.parameters import SHARED, Parameters, layout_of, part_of, view, zeros
from tasks.sae.registry import architecture
from tasks.sae.scaling import Scaling
from tasks.sae.sparse import AdamStep, ByLatent
from tasks.train.plan import Plan
from tasks.train.resample import resample

EPS = 6.25e-10  # OpenAI's: gradients of a mean over rows and features are small (https://arxiv.org/abs/2406.04093)


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
    optimizer: torch.optim.Adam
    """Over the parameters by latent and the others, apart; its moments are views of ``moments``."""
    averaged: Tensor | None = None
    """Exponential moving average of all parameters, if the plan asks for it."""
    scratch: Scratch = field(default_factory=Scratch)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step tells: sums over all workers' rows, and the gradient's norm before clipping."""

    sums: StepSums
    grad_norm: Tensor


def state_from(
    parameters: Parameters, plan: Plan, moments: tuple[Tensor, Tensor] | None = None, step: int = 0
) -> TrainState:
    """The state after ``step`` steps, with these parameters and (flat) Adam moments; empty: those before the first step."""
    flat, device, layout = parameters.flat, parameters.flat.device, layout_of(parameters)
    gradients = zeros(layout, flat.dtype, device)
    first, second = (view(m, layout) for m in moments or (torch.zeros_like(flat), torch.zeros_like(flat)))
    kind = architecture(plan.sae.arch)
    cuts = (slice(0, layout.by_latent), slice(layout.by_latent, None))
    pieces = [flat[cut] for cut in cuts]
    optimizer = torch.optim.Adam(pieces, lr=plan.lr, betas=plan.betas, eps=EPS, fused=True)
    for piece, cut in zip(pieces, cuts, strict=True):
        piece.grad = gradients.flat[cut]
        optimizer.state[piece] = {
            "step": torch.tensor(float(step), device=device),
            "exp_avg": first.flat[cut],
            "exp_avg_sq": second.flat[cut],
        }
    silent = torch.zeros(layout.d_sae, dtype=torch.int64, device=device)
    buffers = {name: tensor.to(device) for name, tensor in kind.buffers(plan.sae).items()}
    averaged = flat.clone() if plan.ema_decay else None
    return TrainState(parameters, (first, second), silent, buffers, step, gradients, optimizer, averaged)


def initial_state(
    plan: Plan, sample: Tensor, device: str | torch.device = "cpu", latents: Group | None = None
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


def update(state: TrainState, raw: Tensor, plan: Plan, scaling: Scaling, exchange: Exchange) -> StepResult:
    """Advance ``state`` in place by one step on this worker's raw rows ``[n, d_in]``; a transcoder's targets lie beside."""
    kind, parameters, step = architecture(plan.sae.arch), state.parameters, state.step
    batch = Batch(
        raw=exchange.latents.gather([raw])[0],
        scaling=scaling,
        dead=state.silent >= plan.dead_after,
        k=plan.k_at(step),
        sparsity=plan.sparsity_at(step),
        progress=step / plan.n_steps,
        n_steps=plan.n_steps,
        bf16=plan.bf16,
        scratch=state.scratch,
        buffers=state.buffers,
    )
    if step in plan.resample_at:
        resample(state, batch, plan, exchange)
    sums, by_latent = kind.gradients(plan.sae, parameters, state.gradients, batch, exchange)
    grad_norm = _descend(state, plan, kind, by_latent, exchange.latents)
    state.silent.add_(sums.n_rows).masked_fill_(sums.fired, 0)
    state.step += 1
    if state.averaged is not None:
        state.averaged.lerp_(parameters.flat, 1 - min(plan.ema_decay, step / (step + 10)))
    return StepResult(sums, grad_norm)


def _descend(state: TrainState, plan: Plan, kind: Architecture, by_latent: ByLatent | None, latents: Group) -> Tensor:
    """Take Adam's step; the norm of the gradient before clipping."""
    parameters, gradients = state.parameters, state.gradients
    state.optimizer.param_groups[0]["lr"] = plan.lr_at(state.step)
    if by_latent is not None and plan.max_grad_norm is None:
        return _descend_by_latent(state, plan, kind, by_latent, latents)
    if by_latent is not None:
        by_latent.write(parameters.W_dec, gradients)
    if kind.unit_norm_decoder:
        _drop_parallel_part(gradients.W_dec, parameters.W_dec)
    norm = _norm(gradients.flat.square().sum(), gradients, latents)
    if plan.max_grad_norm is not None:
        gradients.flat.mul_((plan.max_grad_norm / norm).clamp(max=1.0))
    state.optimizer.step()
    if kind.unit_norm_decoder:
        parameters.W_dec.div_(parameters.W_dec.norm(dim=1, keepdim=True))
    return norm


def _descend_by_latent(state: TrainState, plan: Plan, kind: Architecture, by_latent: ByLatent, latents: Group) -> Tensor:
    """The same without ever writing the gradients of encoder, W_dec and b_enc to memory."""
    by, rest = state.optimizer.param_groups[0]["params"]
    settings = AdamStep(
        lr=plan.lr_at(state.step), betas=plan.betas, eps=EPS, step=state.step + 1, unit_norm=kind.unit_norm_decoder
    )
    square = by_latent.adam(state.parameters, *state.moments, settings)
    others = by.grad
    by.grad = None  # Adam passes over what has no gradient
    state.optimizer.step()
    by.grad = others
    state.optimizer.state[by]["step"] += 1
    return _norm(square + rest.grad.square().sum(), state.gradients, latents)


def _norm(square: Tensor, gradients: Parameters, latents: Group) -> Tensor:
    """Norm of the gradient of all workers' latents; ``square`` is that of this one's, with what belongs to no latent."""
    shared = [gradients.b_dec, *(tensor for name, tensor in gradients.extra.items() if name in SHARED)]
    once = torch.stack([tensor.square().sum() for tensor in shared]).sum()
    return (total(square - once, latents) + once).sqrt()


def _drop_parallel_part(gradient: Tensor, rows: Tensor) -> None:
    """Take from each row of a gradient its part along a unit row, which renormalising would undo anyway."""
    along: Tensor = torch.linalg.vecdot(gradient, rows)
    gradient.addcmul_(rows, along[:, None], value=-1)
