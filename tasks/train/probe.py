"""How fast training steps are: some are taken on rows that are there, by one worker or by several together."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.sae.config import SAEConfig
from tasks.sae.mesh import Mesh, OneProcess, all_reduce_over_mesh
from tasks.sae.scaling import scaling
from tasks.train.config import TrainConfig
from tasks.train.loop import Run, Stepper
from tasks.train.plan import plan
from tasks.train.timing import encoder_product_seconds
from tasks.train.train_state import initial_state, share_state

_FIRST, _MOST = 2, 64
"""Steps that set things up, such as compiled kernels, and those after them at most."""
_BATCHES = 4


@dataclass(frozen=True, slots=True)
class StepSpeed:
    """What steps took."""

    seconds: float
    """Of one, by all workers together."""
    product_flop_per_second: float
    """Of the encoder's bare product in this process, while the others are at it too."""


def take_steps(
    sae: SAEConfig, train: TrainConfig, rows: Tensor, d_in: int, seconds: float, mesh: Mesh | None = None
) -> StepSpeed:
    """Take steps of these settings for about ``seconds``; of several workers all come here.

    Args:
        sae: the SAE.
        train: how it is trained; ``train.workers`` are those of the mesh.
        rows: [n, d_in] or, where something else is rebuilt, [n, d_in + d_out]; they are repeated to fill a batch.
        d_in: features that are read.
        seconds: how long it may take, after the steps that set things up.
        mesh: the workers; None: this process alone.
    """
    mesh = mesh or OneProcess()
    n_workers = mesh.data.world_size * mesh.latents.world_size
    # Not fewer steps than are taken here, as a longer run's are the same. And with few rows again and again most latents
    # would count as dead, which costs AuxK's work in every step; of a run's they seldom do.
    tokens = max(train.tokens, (_FIRST + _MOST) * train.batch_tokens)
    train = train.model_copy(update={"tokens": tokens, "dead_after_tokens": 2 * tokens})
    settled = plan(sae, train, d_in, rows.shape[1] - d_in if rows.shape[1] > d_in else None)
    by = scaling(rows.mean(dim=0), float((rows - rows.mean(dim=0)).square().sum(dim=1).mean()))
    state = share_state(initial_state(settled, by.apply(rows).cpu(), latents=mesh.latents), settled, mesh)
    stepper = Stepper(Run(state), settled, by, mesh)
    batches = itertools.cycle(_batches(rows, settled.batch_rows // n_workers, mesh.data.rank, n_workers))
    _taken(stepper, batches, 1)
    of_one = torch.tensor([_taken(stepper, batches, _FIRST - 1)])
    all_reduce_over_mesh(mesh, of_one)  # so that all take as many
    n = max(1, min(_MOST - 2, int(seconds * n_workers / float(of_one))))
    took = _taken(stepper, batches, n) / n
    n_rows = settled.batch_rows // n_workers
    product = encoder_product_seconds(settled, n_rows)
    return StepSpeed(took, 2 * n_rows * settled.layout.d_in * settled.layout.d_sae / product)


def _taken(stepper: Stepper, batches: Iterator[Tensor], n: int) -> float:
    """Seconds of some steps."""
    began = time.perf_counter()
    for _ in range(n):
        stepper.take(next(batches), 0.0)
    return time.perf_counter() - began


def _batches(rows: Tensor, n: int, rank: int, n_workers: int) -> list[Tensor]:
    """Some batches of ``n`` rows of a worker, others than those of the other workers as far as there are others."""
    enough = rows.repeat(-(-n // len(rows)), 1)
    return [enough.roll(-n * (rank + i * n_workers), 0)[:n].contiguous() for i in range(_BATCHES)]
