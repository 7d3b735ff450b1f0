"""One update of an SAE: explicit state in, the same state advanced by one step out. No input, no output, no clock."""

from dataclasses import dataclass

from torch import Tensor

from tasks.sae.architectures.base import StepBatch, StepSums
from tasks.sae.architectures.registry import architecture
from tasks.sae.asked import AskedNumber
from tasks.sae.mesh import Mesh
from tasks.sae.scaling import Scaling
from tasks.train.optimizer import optimizer_step
from tasks.train.plan import Plan
from tasks.train.resample import resample
from tasks.train.train_state import TrainState


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step tells: sums over all workers' rows, and the gradient's norm before clipping."""

    sums: StepSums
    grad_norm: Tensor


def train_step(state: TrainState, raw: Tensor, plan: Plan, scaling: Scaling, mesh: Mesh) -> StepResult:
    """Advance ``state`` in place by one step on this worker's raw rows ``[n, d_in]``; a transcoder's targets lie beside."""
    kind, parameters, step = architecture(plan.sae.arch), state.parameters, state.step
    dead = state.silent >= plan.dead_after
    raw, n_dead = mesh.latents.all_gather([raw, dead.sum()[None]])
    batch = StepBatch(
        raw=raw,
        scaling=scaling,
        dead=dead,
        n_dead=AskedNumber(n_dead.sum()),
        k=plan.k_at(step),
        sparsity=plan.sparsity_at(step),
        progress=step / plan.n_steps,
        n_steps=plan.n_steps,
        bf16=plan.bf16,
        scratch=state.scratch,
        buffers=state.buffers,
    )
    if step in plan.resample_at:
        resample(state, batch, plan, mesh)
    sums, by_latent = kind.gradients(plan.sae, parameters, state.gradients, batch, mesh)
    grad_norm = optimizer_step(state, plan, kind, by_latent, mesh)
    state.silent.add_(sums.n_rows).masked_fill_(sums.fired, 0)
    state.step += 1
    if state.averaged is not None:
        state.averaged.lerp_(parameters.flat, 1 - min(plan.ema_decay, step / (step + 10)))
    return StepResult(sums, grad_norm)
