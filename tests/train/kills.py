"""Real training commands whose processes can be killed, on a Ray cluster or as forks, and what must hold afterwards."""

import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from flows.config import PipelineConfig
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import CHECKPOINTS, checkpoint_name, part_name
from tests.kills import commands
from tests.patience import until
from tests.train.conftest import make_run

RESULT = ("sae.safetensors", "curve.parquet", "manifest.json")
STEPS, EVERY, WORKERS = 60, 20, 2
ARMED_FROM = 30
GOES_ON_FROM = {"step": 20, "copied": 20, "upload": 20, "commit": 40, "finish": 60}
"""The newest whole checkpoint at each point; they are reached in this order, at the first chance after ARMED_FROM."""


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
class Command(commands.Command):
    """A training run into a folder or bucket of its own, whose workers note each step as they begin it."""

    config: PipelineConfig
    activations: str
    out: str
    folder: Path
    pause_s: float = 0.0

    def arguments(self) -> list[str]:
        run = [self.config.model_dump_json(), self.activations, self.out]
        return ["tests.train.kill_points", str(self.folder), *run]

    def held(self, point: str, process: psutil.Process) -> int:
        """Who is held up where a run goes on from a checkpoint that others, or another thread, may still be writing."""
        pid = super().held(point, process)
        if point in ("step", "commit"):
            until(lambda: any(map(self.written, self._steps_from(GOES_ON_FROM[point]))), "all parts of a checkpoint")
        return pid

    def _steps_from(self, first: int) -> list[int]:
        """Steps, from this one on, of which there are parts of a checkpoint; they need not be those that were asked for."""
        keys = (info.key.split("/") for info in open_store(self.out).list(f"{CHECKPOINTS}/step-"))
        return sorted({step for _, name, *_ in keys if (step := int(name.rpartition("-")[2])) >= first})

    def written(self, step: int) -> bool:
        """Whether all parts of a step's checkpoint are on storage."""
        store, parts = open_store(self.out), self.config.train.latent_shards
        folder = f"{CHECKPOINTS}/{checkpoint_name(step)}"
        return all(store.head(f"{folder}/{part_name(part, parts)}.json") for part in range(parts))

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in Path(self.out, CHECKPOINTS).glob("step-*"))

    def taken(self) -> list[Taken]:
        """Every step that was begun by any worker, in the order in which they were begun."""
        return [Taken(**{**step, "place": tuple(step["place"])}) for step in self.noted()]

    def attempts(self) -> list[list[int]]:
        """The steps that each attempt of the workers to get through has begun: those of the first place in the mesh."""
        mine = [taken for taken in self.taken() if taken.place == (0, 0)]
        pids = dict.fromkeys(taken.pid for taken in mine)
        return [[taken.step for taken in mine if taken.pid == pid] for pid in pids]

    def counts(self) -> dict[str, int]:
        attempts = self.attempts()
        return {"attempts": len(attempts), "steps": self._n_steps(), "steps_begun": sum(map(len, attempts))}

    def result(self) -> list[bytes]:
        return [open_store(self.out).get(name) for name in RESULT]

    def require_undisturbed(self, undisturbed: Self) -> None:
        """The result has an undisturbed run's bits, each step's rows were taken once, none skipped, none repeated, and of
        checkpoints only those are left that are to be kept.
        """
        super().require_undisturbed(undisturbed)
        assert len(self.checkpoints()) <= self.config.train.keep_checkpoints
        expected = {(taken.place, taken.step): (taken.rows, taken.hash) for taken in undisturbed.taken()}
        found = self.taken()
        assert all(expected[taken.place, taken.step] == (taken.rows, taken.hash) for taken in found)
        for place, group in itertools.groupby(sorted(found, key=lambda taken: taken.place), lambda taken: taken.place):
            survived = surviving([(taken.pid, taken.step) for taken in group])
            assert survived == list(range(1, self._n_steps() + 1)), f"worker {place}"
        assert sum(rows for rows, _ in expected.values()) == self._n_steps() * self.config.train.batch_tokens

    def require_gone_on(self, points: Sequence[str]) -> None:
        """Each attempt went on from the newest whole checkpoint that there was at its point.

        Where latents lie in parts, that may be a later one: what an attempt before had written of it was the rest.
        """
        begun = [steps[0] - 1 for steps in self.attempts()]
        expected = [0, *(GOES_ON_FROM[point] for point in points if point != "finish")]  # where no step is left
        if self.config.train.latent_shards == 1:
            assert begun == expected, points
        else:
            assert all(map(operator.ge, begun, expected)), (points, begun)

    def _n_steps(self) -> int:
        return -(-self.config.train.tokens // self.config.train.batch_tokens)


def make_commands(
    folder: Path,
    address: str | None = None,
    steps: int = STEPS,
    every: int = EVERY,
    *,
    storage: str | None = None,
    pause_s: float = 0.0,
    **settings: Any,
) -> Callable[[str], Command]:
    """Makes a command of a name; all have the same settings and activations.

    Args:
        folder: for all that they need.
        address: of the cluster that they join.
        steps: of each run.
        every: so many steps there is a checkpoint.
        storage: of their results, where it is not the folder.
        pause_s: as commands have it.
        settings: of training.
    """
    length = {"tokens": 32 * steps, "checkpoint_every_tokens": 32 * every}
    config, activations = make_run(folder, **{"workers": WORKERS, "max_failures": 5, **length, **settings})
    joined = config if address is None else on_cluster(config, address)
    return lambda name: Command(joined, activations, f"{storage or folder}/{name}/sae", folder / f"{name}-points", pause_s)


def on_cluster(config: PipelineConfig, address: str) -> PipelineConfig:
    """The configuration, to join a running cluster with."""
    return config.model_copy(update={"ray": config.ray.model_copy(update={"address": address, "num_cpus": None})})


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
