"""One update of an SAE: explicit state in, the same state advanced by one step out. No input, no output, no clock."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.sae.architecture import Batch, Scratch, StepSums
from tasks.sae.exchange import Exchange
from tasks.sae.init import initial_parameters
from tasks.sae.parameters import Parameters, view, zeros
from tasks.sae.registry import ARCHITECTURES
from tasks.sae.scaling import Scaling
from tasks.train.plan import Plan

BETAS = (0.9, 0.999)
EPS = 6.25e-10  # OpenAI's: gradients of a mean over rows and features are small (https://arxiv.org/abs/2406.04093)


@dataclass(slots=True)
class TrainState:
    """Everything that a step changes, the same on every worker."""

    parameters: Parameters
    optimizer: torch.optim.Adam
    silent: Tensor
    """int64 [d_sae]: rows seen, over all workers, since each latent last fired."""
    step: int
    """Steps done."""
    gradients: Parameters
    scratch: Scratch = field(default_factory=Scratch)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step tells: sums over all workers' rows, and the gradient's norm before clipping."""

    sums: StepSums
    grad_norm: Tensor


def state_from(parameters: Parameters, plan: Plan) -> TrainState:
    """The state before the first step, with these parameters."""
    device = parameters.flat.device
    gradients = zeros(plan.d_in, plan.sae.d_sae, parameters.flat.dtype, device)
    parameters.flat.grad = gradients.flat
    # One flat tensor and the fused kernel: 4 ms a step for 5.3M parameters.
    optimizer = torch.optim.Adam([parameters.flat], lr=plan.lr, betas=BETAS, eps=EPS, fused=True)
    silent = torch.zeros(plan.sae.d_sae, dtype=torch.int64, device=device)
    return TrainState(parameters, optimizer, silent, 0, gradients)


def initial_state(plan: Plan, sample: Tensor, device: str | torch.device = "cpu") -> TrainState:
    """The state before the first step, drawn from the plan's seed and from scaled training rows ``sample [m, d_in]``."""
    parameters = initial_parameters(plan.sae, plan.d_in, plan.seed, sample)
    return state_from(view(parameters.flat.to(device), plan.d_in, plan.sae.d_sae), plan)


def update(state: TrainState, raw: Tensor, plan: Plan, scaling: Scaling, exchange: Exchange) -> StepResult:
    """Advance ``state`` in place by one step on this worker's raw rows ``[n, d_in]``."""
    architecture, parameters = ARCHITECTURES[plan.sae.arch], state.parameters
    batch = Batch(raw, scaling, state.silent >= plan.dead_after, plan.sparsity_at(state.step), plan.bf16, state.scratch)
    sums = architecture.gradients(plan.sae, parameters, state.gradients, batch, exchange)
    if architecture.unit_norm_decoder:
        _drop_parallel_part(state.gradients.W_dec, parameters.W_dec)
    grad_norm = state.gradients.flat.norm()
    if architecture.max_grad_norm is not None:
        state.gradients.flat.mul_((architecture.max_grad_norm / grad_norm).clamp(max=1.0))
    state.optimizer.param_groups[0]["lr"] = plan.lr_at(state.step)
    state.optimizer.step()
    if architecture.unit_norm_decoder:
        parameters.W_dec.div_(parameters.W_dec.norm(dim=1, keepdim=True))
    state.silent.add_(sums.n_rows).masked_fill_(sums.fired, 0)
    state.step += 1
    return StepResult(sums, grad_norm)


def _drop_parallel_part(gradient: Tensor, rows: Tensor) -> None:
    """Take from each row of a gradient its part along a unit row, which renormalising would undo anyway."""
    along: Tensor = torch.linalg.vecdot(gradient, rows)
    gradient.addcmul_(rows, along[:, None], value=-1)
