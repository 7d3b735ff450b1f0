"""A harvest and a training at once, killed again and again.

``python -m tests.rolling.forked_kills FOLDER CHARACTERS FEWER KILLS SEED``

Each of the two is a fork of this process; they meet on storage alone. Harvester, windows, worker and checkpoints are the
real ones, and only Ray is left out. A third process lists the storage all the while. Printed is what was survived.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import tasks.activations.loader.window_reader as window_reader
import tasks.harvest.rolling.ledger as ledger
import tasks.harvest.rolling.rolling as rolling
import tasks.storage.local as local
from flows.addresses import Addresses, addresses
from flows.config import PipelineConfig, load_config
from flows.rolling.places import LakePlaces
from tasks.harvest import ray_harvest
from tasks.harvest.kept import kept_shards
from tasks.harvest.named import is_data_key
from tasks.harvest.pool.actor import Harvester
from tasks.harvest.ray_harvest import job_of
from tasks.harvest.rolling.ledger import WindowLedger, seal_enough
from tasks.harvest.rolling.plan import plan_windows, windows_at_once
from tasks.harvest.rolling.rolling import Rolling
from tasks.harvest.rolling.tries import RollingTries
from tasks.harvest.shards import planned_shards
from tasks.progress import silent
from tasks.sae.mesh import OneProcess
from tasks.storage.objects import open_store
from tasks.train.checkpoint import write_run
from tasks.train.checkpoint_names import CHECKPOINTS, furthest_whole
from tasks.train.checkpoint_writer import CheckpointWriter
from tasks.train.finish import close
from tasks.train.loop import Run
from tasks.train.source import RowSource
from tasks.train.worker import Worker
from tests.composed import run_settings, tokenize
from tests.harvest.forked_kills import InThisProcess
from tests.harvest.kill_points import arm_actor
from tests.harvest.kills import write_config
from tests.kills.forks import ended, fork, killed
from tests.kills.points import Points
from tests.train.kill_points import arm as arm_worker

HOOK, CONTEXT, SHARD, BATCH = "model.layers.0", 16, 512, 64
SETTINGS = (
    f"harvest.hooks=[{HOOK}]",
    f"harvest.shard_tokens={SHARD}",
    "harvest.row_group_rows=64",
    "harvest.batch_sequences=32",
    "text.eval_fraction=0.004",
    "sae.d_sae=32",
    "sae.k=4",
    "train.workers=1",
    "train.lanes=4",
    f"train.batch_tokens={BATCH}",
    f"train.window_tokens={SHARD}",
)
IN_HARVEST = ("forward", "encode", "upload", "commit", "committed", "seal", "sealed", "record gone", "rows gone")
"""Those of a harvester; before and after a window's manifest; after the first record, and the first rows, are deleted."""
IN_TRAINING = ("step", "copied", "upload", "finish")
RESULT = ("sae.safetensors", "config.json", "curve.parquet", "manifest.json")


@dataclass
class Pair:
    """A harvest and a training of one configuration, each a process."""

    config: PipelineConfig
    folder: Path
    at: Addresses
    tokens: str
    budget: int
    pids: dict[str, int] = field(default_factory=dict)

    @property
    def lake(self) -> LakePlaces:
        return LakePlaces(self.at.sae)

    def points(self, name: str) -> Path:
        found = self.folder / f"{name} points"
        found.mkdir(exist_ok=True)
        return found

    def start(self, name: str) -> None:
        work: Callable[..., None] = {"harvest": harvest_windows, "training": train_on_windows}[name]
        self.pids[name] = fork(work, self)

    def kill(self, *names: str) -> None:
        """kill -9 of processes, which may have ended by themselves meanwhile, at once; each that did not is started anew."""
        there = [name for name in names if name in self.pids]
        for name in there:
            os.kill(self.pids[name], signal.SIGKILL)
        for name in there:
            code = ended(self.pids.pop(name))
            assert code in (0, -signal.SIGKILL), (name, code)
            if code:
                self.start(name)

    def poll(self) -> None:
        """Forget who has ended well."""
        for name, pid in list(self.pids.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self.pids[name]
                assert os.waitstatus_to_exitcode(status) == 0, f"{name} failed by itself"

    def arm(self, name: str, point: str) -> None:
        aside = self.points(name) / ".armed"
        aside.write_text(json.dumps({"step": 0, "node": None}))
        aside.rename(self.points(name) / point)

    def held(self, name: str, point: str) -> bool:
        return any(self.points(name).glob(f"{point}.*"))

    def result(self) -> list[bytes]:
        return [open_store(self.at.sae).get(name) for name in RESULT]


def harvest_windows(pair: Pair) -> None:
    """What a pool of actors does, with one harvester."""
    points = Points(pair.points("harvest"))
    arm_actor(points)
    points.around(ledger, "write_manifest", before="seal", after="sealed")
    points.around(local.LocalStore, "delete", after="record gone", when=lambda _, key: key.startswith("commits/"))
    points.around(local.LocalStore, "delete", after="rows gone", when=lambda _, key: is_data_key(key))
    config = pair.config
    planned = planned_shards(pair.tokens, config.harvest.shard_tokens)
    windows = plan_windows(planned, config.train.window_tokens or 0, CONTEXT)
    kept = kept_shards(planned, config.harvest)
    at_once = windows_at_once(windows, kept, [16], config.harvest, CONTEXT, actors=1)
    pool = pair.lake.pool(pair.at.shards)
    found = Rolling(
        ledger=WindowLedger(pair.lake.windows, windows, pool, config.harvest.dtype),
        at_once=at_once,
        context_length=CONTEXT,
        batch_rows=BATCH,
        n_steps=config.train.n_steps,
        passed=lambda: furthest_whole(open_store(pair.at.sae), f"{CHECKPOINTS}/"),
    )
    tries = RollingTries(found, max_attempts=1, stopped=threading.Event())
    harvester = Harvester(job_of(config.harvest, config.model, pair.tokens, pool, [16], "ab"))
    while tries.left:
        shard = tries.next(idle=True)
        if shard is None:
            time.sleep(0.02)
            continue
        harvester.harvest(shard, 1)
        tries.done(shard)


def train_on_windows(pair: Pair) -> None:
    """What Ray Train's one worker does."""
    arm_worker(Points(pair.points("training")))
    train(pair, RowSource(pair.at.activations, pair.lake.windows, is_rolling=True))


def train(pair: Pair, source: RowSource) -> None:
    settings, out = run_settings(pair.config), pair.at.sae
    worker = Worker(settings, pair.at.activations, out, OneProcess(), source=source)

    def keep(run: Run) -> None:
        copied = writer.copy(run)
        writer.begin(lambda: write_run(copied(), open_store(out), f"{CHECKPOINTS}/", keep=2))

    with CheckpointWriter() as writer:
        run = worker.train(on_checkpoint=keep)
    close(settings, pair.at.activations, out, worker.finish(run), {})


def made(folder: Path, name: str, characters: int, *settings: str) -> Pair:
    """A configuration with its tokens, below a folder of its own."""
    own = folder / name
    own.mkdir()
    tokens = f"train.tokens={characters - characters // 8}"
    config = load_config(folder / "config.yaml", [*SETTINGS, tokens, *settings], storage=str(own / "runs"))
    at = addresses(config)
    assert at.tokens is not None
    assert ended(fork(tokenize, config, at.tokens, silent)) == 0
    return Pair(config, own, at, at.tokens, config.harvest.window_bytes or 0)


def kept(folder: Path, characters: int) -> Pair:
    """Everything harvested, and then trained on in the same order."""
    pair = made(folder, "kept", characters)
    assert ended(fork(harvest_rows, pair)) == 0
    planned = planned_shards(pair.tokens, SHARD)
    windows = plan_windows(planned, pair.config.train.window_tokens or 0, CONTEXT)
    place = pair.lake.windows_of_kept
    seal_enough(WindowLedger(place, windows, pair.at.shards, "float32"), pair.config.train.n_steps, BATCH)
    train(pair, RowSource(pair.at.activations, place))  # here, so that what is imported late is so before the forks
    return pair


def harvest_rows(pair: Pair) -> None:
    """The rows that stay: all, or the held-out ones and a sample."""
    ray_harvest.harvest(
        pair.config.harvest,
        pair.config.model,
        pair.config.ray,
        pair.tokens,
        pair.at.shards,
        pair.at.activations,
        silent,
        "ab",
    )


def rolled(folder: Path, name: str, characters: int, budget: int) -> Pair:
    """Ready for both."""
    pair = made(folder, name, characters, "harvest.keep=window", f"harvest.window_bytes={budget}")
    assert ended(fork(harvest_rows, pair)) == 0
    return pair


class Watcher:
    """A process that lists the rows on storage until it is told to end, and keeps the most bytes that it has seen."""

    def __init__(self, pair: Pair) -> None:
        self._told = pair.folder / "peak"
        self._pid = fork(self._watch, [Path(pair.at.shards), Path(pair.lake.uri)])

    def _watch(self, roots: Sequence[Path]) -> None:
        peak = 0
        while not self._told.with_suffix(".end").exists():
            found = [Path(where, name) for root in roots for where, _, names in os.walk(root) for name in names]
            peak = max(peak, sum(map(_size, found)))
            time.sleep(0.02)
        self._told.write_text(str(peak))

    def end(self) -> int:
        self._told.with_suffix(".end").touch()
        assert ended(self._pid) == 0
        return int(self._told.read_text())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def survive(pair: Pair, moments: Callable[[Pair], bool]) -> int:
    """Run both to the end, killed whenever ``moments`` does so; the most bytes of rows that were stored at a time."""
    watcher = Watcher(pair)
    try:
        pair.start("harvest")
        pair.start("training")
        goes_on = True
        while pair.pids:
            goes_on = goes_on and moments(pair)
            time.sleep(0.01)
            pair.poll()
    finally:
        for pid in pair.pids.values():
            killed(pid)
        peak = watcher.end()
    return peak


def at_points(points: Sequence[tuple[str, str]]) -> Callable[[Pair], bool]:
    """Kill whoever comes to each of these points, one after another."""
    left = list(points)

    def moment(pair: Pair) -> bool:
        name, point = left[0]
        if pair.held(name, point):
            pair.kill(name)
            left.pop(0)
            if not left:
                return False
            pair.arm(*left[0])
        return True

    return moment


def one_after_another(*moments: Callable[[Pair], bool]) -> Callable[[Pair], bool]:
    left = list(moments)

    def moment(pair: Pair) -> bool:
        if left and not left[0](pair):
            left.pop(0)
        return bool(left)

    return moment


def at_random(kills: int, rng: random.Random, kinds: "Counter[str]") -> Callable[[Pair], bool]:
    """Kill one of the two, or both, at random moments."""
    due = 0.0

    def moment(pair: Pair) -> bool:
        nonlocal due
        if time.monotonic() >= due:
            names = rng.choice([("harvest",), ("training",), ("harvest", "training")])
            kinds[" and ".join(names)] += 1
            pair.kill(*names)
            due = time.monotonic() + rng.uniform(0, 0.5)
        return kinds.total() < kills

    return moment


def main(folder: str, characters: str, fewer: str, kills: str, seed: str) -> None:
    """Survive with so many times fewer bytes than all rows take, and print what was survived."""
    torch.set_num_threads(1)
    home, length = Path(folder), int(characters)
    write_config(home, length)
    without_ray: Any = ray_harvest
    without_ray.Pool = InThisProcess
    without_ray.connect = lambda _: None
    without_ray.cluster_gpus = lambda: 0.0
    rolling._LOOK_S = window_reader._LOOK_S = 0.02  # windows take milliseconds here
    undisturbed = kept(home, length)
    stored = sum(path.stat().st_size for path in Path(undisturbed.at.shards).rglob("*") if path.is_file())
    budget = stored // int(fewer)
    found: dict[str, Any] = {"budget": budget, "stored": stored, "peaks": {}}

    def hold(pair: Pair, moments: Callable[[Pair], bool], points: Sequence[tuple[str, str]] = ()) -> None:
        found["peaks"][pair.folder.name] = peak = survive(pair, moments)
        assert peak <= budget, f"{peak:,} bytes were stored at a time, {budget:,} may be"
        assert [point for point in points if not pair.held(*point)] == [], "nobody came to these points"
        assert pair.result() == undisturbed.result(), "another SAE"
        assert pair.lake.consumed(pair.at.activations), "nothing is known of what was read"
        shutil.rmtree(pair.folder)

    points = [*(("harvest", point) for point in IN_HARVEST), *(("training", point) for point in IN_TRAINING)]
    kinds: Counter[str] = Counter()
    rng, runs = random.Random(int(seed)), 0
    pair = rolled(home, "points", length, budget)
    pair.arm(*points[0])
    hold(pair, one_after_another(at_points(points), at_random(int(kills), rng, kinds)), points)
    while kinds.total() < int(kills):
        hold(rolled(home, f"random {runs}", length, budget), at_random(int(kills), rng, kinds))
        runs += 1
    print(json.dumps({**found, "points": points, "kills": dict(kinds), "runs": runs}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
