"""Points at which a training worker pauses, in the midst of the code under test, for a test to kill whom it likes.

``python -m tests.train.kill_points FOLDER`` trains what ``run.json`` in the folder says, its workers armed. A point holds
up the first worker that comes by while a file of the point's name lies in the folder: that file is renamed and tells
who it was. Held up it stays until it is killed or the file is removed. Each step's rows are written down there too.
"""

import builtins
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tasks.storage.local as local
import tasks.train.checkpoint as checkpoint
import tasks.train.loop as loop
import tasks.train.optimizer as optimizer
import tasks.train.ray_train as ray_train
import tasks.train.worker as worker
from flows.config import PipelineConfig
from flows.stages import train_stage
from tasks.progress import silent
from tasks.ray_cluster import connect

IN_WORKER = ("step", "upload", "commit", "finish")
"""Before Adam's step; half of a checkpoint's file written; all of it, but Ray Train not told; the SAE not written."""

_train = ray_train._work


class Points:
    """The points of one worker, and where its steps are written down."""

    def __init__(self, folder: Path, pause_s: float) -> None:
        self.folder, self.pause_s = folder, pause_s
        self.step = 0
        """The step that is being taken or, after it, was taken last."""

    def reach(self, point: str) -> None:
        """Stay here if the point is armed for this step and node, and nobody else is held up by it."""
        armed, held = self.folder / point, self.folder / f"{point}.{os.getpid()}"
        try:
            wanted = json.loads(armed.read_text())
            if self.step < wanted["step"] or (wanted["node"] is not None and wanted["node"] != _node()):
                return
            armed.rename(held)
        except FileNotFoundError:
            return
        while held.exists():
            time.sleep(0.005)

    def armed(self, point: str) -> bool:
        return (self.folder / point).exists()

    def took(self, raw: torch.Tensor, place: tuple[int, int]) -> None:
        rows = raw.contiguous().view(torch.uint8).numpy().tobytes()
        found = {"pid": os.getpid(), "place": place, "step": self.step, "rows": len(raw), "hash": _hash(rows)}
        with open(self.folder / "taken.jsonl", "a") as log:
            log.write(json.dumps(found) + "\n")  # one write of less than a page, so that lines of several workers do not mix


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def armed_work(task: dict[str, Any], folder: str, pause_s: float) -> dict[str, Any]:
    """What each of Ray Train's workers does, its points armed first."""
    arm(Points(Path(folder), pause_s))
    return _train(task)


def arm(points: Points) -> None:
    """Wrap the functions at a worker's points; each still does what it does."""
    import ray.train

    arm_in_process(points)
    before(ray.train, "report", "commit", points, lambda named: named["checkpoint"] is not None)
    halve_http_bodies(points)


def arm_in_process(points: Points) -> None:
    """The points that a worker without Ray comes to as well, on local storage."""
    at_steps(points)
    before(checkpoint, "read_run", "read", points)
    before(worker, "write_sae", "finish", points)
    local.open = partial(opened, points=points)  # type: ignore[attr-defined]


def at_steps(points: Points) -> None:
    real = loop.train_step

    def train_step(run_state: Any, raw: torch.Tensor, plan: Any, scaling: Any, mesh: Any) -> Any:
        points.step = run_state.step + 1
        points.took(raw, (mesh.data.rank, mesh.latents.rank))
        if points.pause_s and not points.armed("hurry"):
            time.sleep(points.pause_s)
        return real(run_state, raw, plan, scaling, mesh)

    loop.train_step = train_step
    before(optimizer, "_step_others", "step", points)  # gradients are there, of all workers; the weights are not there yet


def before(
    owner: Any, name: str, point: str, points: Points, when: Callable[[dict[str, Any]], bool] = lambda named: True
) -> None:
    real = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if when(named):
            points.reach(point)
        return real(*arguments, **named)

    setattr(owner, name, wrapped)


def opened(path: Any, mode: str = "r", *arguments: Any, points: Points) -> Any:
    """The files that a LocalStore writes: of a checkpoint's, half are written before the point is reached."""
    file = builtins.open(path, mode, *arguments)  # noqa: SIM115 - for the caller to close
    written = "w" in mode and "/checkpoints/" in str(path) and points.armed("upload")
    return _Halved(file, points) if written else file


class _Halved:
    def __init__(self, file: Any, points: Points) -> None:
        self._file, self._points = file, points

    def __enter__(self) -> "_Halved":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._points.reach("upload")
        return half + int(self._file.write(data[half:]))


def halve_http_bodies(points: Points) -> None:
    """Of what is PUT on S3 half of the first piece of a body goes out before the point is reached."""
    from aiohttp import http_writer

    real: Callable[..., Any] = http_writer.StreamWriter._write

    def write(self: Any, chunk: bytes) -> None:
        if len(chunk) > 1000 and points.armed("upload"):  # headers are smaller
            self.transport.write(bytes(chunk[: len(chunk) // 2]))
            points.reach("upload")
            chunk = chunk[len(chunk) // 2 :]
        real(self, chunk)

    http_writer.StreamWriter._write = write  # type: ignore[method-assign,assignment]


def main(folder: str) -> None:
    """Train what the folder says; the exit code tells how it ended."""
    said = json.loads(Path(folder, "run.json").read_text())
    ray_train._work = partial(armed_work, folder=folder, pause_s=said["pause_s"])
    config = PipelineConfig.model_validate(said["config"])
    connect(config.ray)
    Points(Path(folder), 0).reach("connected")
    ray_train.train(train_stage(config).run_settings, said["activations"], said["out"], silent)


if __name__ == "__main__":
    from tests.train.kill_points import main as main_by_name  # Ray's workers import what this process runs as __main__

    main_by_name(sys.argv[1])
