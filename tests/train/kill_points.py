"""Points at which training workers are held up: ``python -m tests.train.kill_points FOLDER CONFIG ACTIVATIONS OUT``.

That trains what it is told, its workers armed. Each step's rows are noted as it begins.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch

import tasks.train.checkpoint as checkpoint
import tasks.train.loop as loop
import tasks.train.optimizer as optimizer
import tasks.train.ray_train as ray_train
import tasks.train.worker as worker
from flows.config import PipelineConfig
from flows.stages import train_stage
from tasks.progress import silent
from tasks.train.checkpoint_writer import CheckpointWriter
from tasks.train.loop import Run
from tests.kills.points import Points

IN_WRITER = ("copied", "upload", "commit")
"""In the thread that writes a checkpoint: nothing of it is written; half of a file; all of it, but Ray Train is not told."""
IN_WORKER = ("step", *IN_WRITER, "finish")
"""Before Adam's step; in the writer; before the SAE is written."""

_work = ray_train._work


def armed_work(task: dict[str, Any], folder: str) -> dict[str, Any]:
    """What each of Ray Train's workers does, its points armed first."""
    points = Points(Path(folder))
    arm(points)
    points.around(ray.train, "report", before="commit", when=lambda *_, checkpoint, **__: checkpoint is not None)
    return _work(task)


def arm(points: Points) -> None:
    """The points that a worker without Ray comes to as well."""
    at_steps(points)
    in_writer(points)
    points.around(checkpoint, "read_run", before="read")
    points.steps["finish"] = sys.maxsize  # also of a worker that had no step left to take
    points.around(worker, "write_sae", before="finish")
    points.halve_uploads(among="/checkpoints/")


def at_steps(points: Points) -> None:
    real = loop.train_step

    def train_step(run_state: Any, raw: torch.Tensor, plan: Any, scaling: Any, mesh: Any) -> Any:
        points.step = run_state.step + 1
        rows = raw.contiguous().view(torch.uint8).numpy().tobytes()
        taken = {"pid": os.getpid(), "place": (mesh.data.rank, mesh.latents.rank), "step": points.step}
        points.note(**taken, rows=len(raw), hash=hashlib.blake2b(rows, digest_size=8).hexdigest())
        points.pause()
        return real(run_state, raw, plan, scaling, mesh)

    loop.train_step = train_step
    # Gradients are there, of all workers; the weights are not there yet.
    points.around(optimizer, "_step_others", before="step")


def in_writer(points: Points) -> None:
    """Steps go on meanwhile. Only workers that have something to write come to ``copied``."""
    begin, copy = CheckpointWriter.begin, CheckpointWriter.copy

    def begin_at(writer: CheckpointWriter, write: Callable[[], None]) -> None:
        step = points.step

        def at_its_step() -> None:
            points.steps.update(dict.fromkeys(IN_WRITER, step))
            write()

        begin(writer, at_its_step)

    def copy_at(writer: CheckpointWriter, run: Run) -> Callable[[], Run]:
        ready = copy(writer, run)

        def before_it_is_written() -> Run:
            points.reach("copied")
            return ready()

        return before_it_is_written

    CheckpointWriter.begin = begin_at  # type: ignore[method-assign]
    CheckpointWriter.copy = copy_at  # type: ignore[method-assign]


def main(folder: str, config: str, activations: str, out: str) -> None:
    """Train; the exit code tells how it ended."""
    ray_train._work = partial(armed_work, folder=folder)
    Points(Path(folder)).around(ray_train, "connect", after="connected")
    settings = train_stage(PipelineConfig.model_validate_json(config)).settings
    ray_train.train(settings, activations, out, silent)


if __name__ == "__main__":
    from tests.train.kill_points import main as main_by_name  # Ray's workers import what this process runs as __main__

    main_by_name(*sys.argv[1:])
