"""Real training commands on a Ray cluster, whose processes can be killed, and what must hold afterwards."""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.config import PipelineConfig
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import checkpoint_name
from tests.conftest import ROOT
from tests.harvest.commands import kill_tree
from tests.patience import PATIENCE_S

RESULT = ("sae.safetensors", "curve.parquet", "manifest.json")
WORKER, CONTROLLER = "ray::RayTrainWorker", "ray::TrainingJob"
"""How Ray titles the processes of a training job."""


@dataclass(frozen=True)
class Taken:
    """A step that was begun: by which worker, and on which of its rows."""

    pid: int
    place: tuple[int, int]
    """The worker's place in the mesh."""
    step: int
    rows: int
    hash: str


@dataclass
class Command:
    """A training run into a folder or bucket of its own, started as often as it takes."""

    config: PipelineConfig
    activations: str
    out: str
    folder: Path
    """For kill points, what steps were taken and what the command says."""
    pause_s: float = 0.0
    """How much longer than it would take each step takes, until told to hurry."""

    def start(self) -> psutil.Popen:
        """The command as a process."""
        self.folder.mkdir(exist_ok=True)
        run = {"config": self.config.model_dump(mode="json"), "activations": self.activations, "out": self.out}
        (self.folder / "run.json").write_text(json.dumps(run | {"pause_s": self.pause_s}))
        with open(self.folder / "said", "a") as said:
            return psutil.Popen(
                [sys.executable, "-m", "tests.train.kill_points", str(self.folder)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=said,
                stderr=said,
            )

    def run(self) -> int:
        """Its exit code."""
        process = self.start()
        try:
            return int(process.wait(PATIENCE_S))
        finally:
            kill_tree(process)

    def said(self) -> str:
        return (self.folder / "said").read_text()[-3000:]

    def arm(self, point: str, step: int = 0, node: str | None = None) -> None:
        """Have the next worker that comes by, in a step not before that, on that node if one is named, held up there."""
        self.folder.mkdir(exist_ok=True)
        aside = self.folder / f".{point}"
        aside.write_text(json.dumps({"step": step, "node": node}))
        aside.rename(self.folder / point)

    def hurry(self) -> None:
        """No longer make steps take longer than they would."""
        (self.folder / "hurry").touch()

    def held(self, point: str, process: psutil.Popen) -> int:
        """Wait for a worker to be held up at the point; its process id."""
        deadline = time.monotonic() + PATIENCE_S
        while not (held := list(self.folder.glob(f"{point}.*"))):
            assert process.poll() is None, f"the command ended before anyone came to {point}: {self.said()}"
            assert time.monotonic() < deadline, f"nobody came to {point}: {self.said()}"
            time.sleep(0.01)
        return int(held[0].suffix.removeprefix("."))

    def let_go(self, point: str) -> None:
        """Let whoever is held up at the point go on, if it still lives; the point is no longer armed."""
        for held in self.folder.glob(f"{point}.*"):
            held.unlink()

    def result(self) -> list[bytes]:
        """The bytes that an undisturbed run on the same mesh must have too."""
        return [open_store(self.out).get(name) for name in RESULT]

    def taken(self) -> list[Taken]:
        """Every step that was begun by any worker, in the order in which they were begun."""
        path = self.folder / "taken.jsonl"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # what follows is being written
        lines = [json.loads(line) for line in whole.splitlines()]
        return [Taken(**{**line, "place": tuple(line["place"])}) for line in lines]

    def begun(self) -> int:
        """Grows whenever a worker begins a step."""
        path = self.folder / "taken.jsonl"
        return path.stat().st_size if path.exists() else 0

    def attempts(self) -> list[list[int]]:
        """The steps that each attempt of the workers to get through has begun: those of the first place in the mesh."""
        mine = [taken for taken in self.taken() if taken.place == (0, 0)]
        pids = dict.fromkeys(taken.pid for taken in mine)
        return [[taken.step for taken in mine if taken.pid == pid] for pid in pids]

    def written(self, step: int) -> bool:
        """Whether all parts of a step's checkpoint are on disk."""
        parts = list(Path(self.out, "checkpoints", checkpoint_name(step)).glob("state*.json"))
        return len(parts) == self.config.train.latent_shards

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in Path(self.out, "checkpoints").glob("step-*"))

    def require_undisturbed(self, undisturbed: "Command") -> None:
        """The result has an undisturbed run's bits, and each step's rows were taken once, none skipped, none repeated."""
        assert self.result() == undisturbed.result()
        expected = {(taken.place, taken.step): (taken.rows, taken.hash) for taken in undisturbed.taken()}
        found = self.taken()
        assert all(expected[taken.place, taken.step] == (taken.rows, taken.hash) for taken in found)
        settings = self.config.train
        n_steps = -(-settings.tokens // settings.batch_tokens)
        for place, group in itertools.groupby(sorted(found, key=lambda taken: taken.place), lambda taken: taken.place):
            survived = surviving([(taken.pid, taken.step) for taken in group])
            assert survived == list(range(1, n_steps + 1)), f"worker {place}"
        assert sum(rows for rows, _ in expected.values()) == n_steps * settings.batch_tokens


def surviving(begun: Sequence[tuple[int, int]]) -> list[int]:
    """The steps that a result is made of, given each worker process's steps as they were begun.

    A process goes on from a checkpoint of those before it; what they did after that checkpoint is lost.
    """
    history: list[int] = []
    for pid in dict.fromkeys(pid for pid, _ in begun):
        steps = [step for by, step in begun if by == pid]
        assert steps == list(range(steps[0], steps[0] + len(steps))), f"process {pid} skipped or repeated steps"
        assert len(history) >= steps[0] - 1, f"process {pid} began with step {steps[0]} after {len(history)}"
        history = history[: steps[0] - 1] + steps
    return history


def titled(title: str) -> list[psutil.Process]:
    """This process's descendants that Ray titles so, the youngest last; zombies have no title any more."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(title):
                found.append((process.create_time(), process))
    return [process for _, process in sorted(found, key=lambda one: one[0])]


def kill(processes: Sequence[psutil.Process]) -> None:
    """kill -9, and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)
