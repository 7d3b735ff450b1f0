"""A rolling lake beside everything kept, from the command line: bytes at a time, seconds, and kills.

The same rows are harvested and trained on twice, in the same order: once all are kept, once no more than a twentieth. A
process of its own lists the storage all the while. ``--kills`` then does the second once more for each of harvest,
training and both at each of some moments, kills them there (kill -9), and gives the command again where it has ended.
Each SAE must have the bytes of the first, and no storage more rows than it may.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import ROOT
from tests.benchmarks.command_line import command
from tests.benchmarks.harness import arguments, environment, finish
from tests.kills.processes import CONTROLLER, HARVESTER, WORKER, kill, kill_tree, titled

CONFIG = "configs/demo.yaml"
FEWER = 20
TOKENS, QUICK_TOKENS = 300_000, 60_000
RESULT = ("sae.safetensors", "config.json", "curve.parquet", "manifest.json")
VICTIMS = {"harvest": (HARVESTER,), "training": (WORKER,), "controller": (CONTROLLER,), "both": (HARVESTER, WORKER)}
"""Whom Ray is to replace; ``command`` ends everything, and is given again."""


def settings(tokens: int) -> list[str]:
    """Of the demo with shards of a thousand tokens, whose training sees each row about once."""
    return [
        f"text.max_tokens={tokens}",
        "text.eval_fraction=0.005",
        "text.context_length=128",
        "harvest.shard_tokens=1024",
        "harvest.row_group_rows=256",
        "harvest.actors=1",
        "sae.d_sae=1024",
        "train.workers=1",
        f"train.tokens={tokens * 24 // 25}",
        f"train.window_tokens={tokens // 100}",
    ]


@dataclass
class Ran:
    """A command that was given until it had its result."""

    sae: str
    seconds: float
    peak: int
    """The most bytes of rows that were on storage at a time."""
    kills: list[str] = field(default_factory=list)

    def result(self) -> list[bytes]:
        return [Path(self.sae, name).read_bytes() for name in RESULT]


def main() -> None:
    options = arguments(__doc__, _add)
    where = environment()
    tokens = QUICK_TOKENS if options.quick else TOKENS
    with tempfile.TemporaryDirectory() as folder:
        whole = _ran(f"{folder}/all", settings(tokens))
        budget = whole.peak // FEWER
        rolling = [*settings(tokens), "harvest.keep=window", f"harvest.window_bytes={budget}"]
        window = _ran(f"{folder}/window", rolling)
        rows = [_row("all kept", whole, budget), _row("window", window, budget)]
        _require_same(whole, window, budget)
        for name, share in _moments(options.kills):
            killed = _ran(f"{folder}/{name}-{share}", rolling, _killer(name, share, tokens // 25 * 24))
            assert killed.kills, f"{name} at {share}: killed too late"
            _require_same(whole, killed, budget)
            rows.append(_row(f"{name} killed at {share:.0%}", killed, budget))
            shutil.rmtree(f"{folder}/{name}-{share}")
    checks = {
        "rolling_bytes_kept_by_budget": whole.peak / budget,
        "rolling_peak_share_of_budget": max(row["peak bytes"] for row in rows[1:]) / budget,
        "rolling_seconds": window.seconds,
        "kept_seconds": whole.seconds,
        "rolling_kills_survived": float(sum(row["kills"] for row in rows)),
    }
    finish(options.json, checks, rows, where)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kills", type=int, default=0, help="at so many moments of a run, of each of those who can be killed"
    )


def _moments(n: int) -> Iterator[tuple[str, float]]:
    for i in range(n):
        for name in (*VICTIMS, "command"):
            yield name, (i + 0.5) / n


def _ran(storage: str, given: list[str], moment: Callable[[psutil.Popen, str], list[str]] | None = None) -> Ran:
    """Train, with all that it needs, until that has ended well; ``moment`` kills when it finds it time."""
    kills: list[str] = []
    began = time.monotonic()
    with _watched(storage) as peak:
        while True:
            process = psutil.Popen(command("train", CONFIG, storage, given), cwd=ROOT, stdout=subprocess.PIPE)
            try:
                while moment is not None and not kills and process.poll() is None:
                    kills += moment(process, storage)
                    time.sleep(0.02)
                out, _ = process.communicate()
            finally:
                kill_tree(process)
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, f"exit code {process.returncode}"
    return Ran(json.loads(out)["sae"], time.monotonic() - began, peak(), kills)


def _killer(name: str, share: float, tokens: int) -> Callable[[psutil.Popen, str], list[str]]:
    """Kills once a checkpoint lies beyond that share of the run."""

    def moment(process: psutil.Popen, storage: str) -> list[str]:
        steps = [int(path.name.removeprefix("step-")) for path in Path(storage).glob("saes/*/checkpoints/step-*")]
        if max(steps, default=0) * 1024 < share * tokens:
            return []
        if name == "command":
            kill_tree(process)
            return [name]
        found = [process for title in VICTIMS[name] for process in titled(title)]
        kill(found)
        return [name for _ in found]

    return moment


@contextmanager
def _watched(storage: str) -> Iterator[Callable[[], int]]:
    """The most bytes of rows below a storage while the block runs, told when it has ended."""
    context = multiprocessing.get_context("spawn")
    over, peak = context.Event(), context.Value("q", 0)
    watcher = context.Process(target=_watch, args=(storage, over, peak), daemon=True)
    watcher.start()
    try:
        yield lambda: int(peak.value)
    finally:
        over.set()
        watcher.join()


def _watch(storage: str, over: Event, peak: Any) -> None:
    roots = [Path(storage, "shards"), Path(storage, "lakes")]
    while not over.wait(0.02):
        there = [Path(where, name) for root in roots for where, _, names in os.walk(root) for name in names]
        peak.value = max(peak.value, sum(map(_size, there)))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _require_same(whole: Ran, other: Ran, budget: int) -> None:
    assert other.result() == whole.result(), "another SAE"
    assert other.peak <= budget, f"{other.peak:,} bytes of rows were stored at a time, {budget:,} may be"
    assert Path(other.sae, "consumed.json").exists()


def _row(name: str, ran: Ran, budget: int) -> dict[str, Any]:
    return {
        "run": name,
        "seconds": ran.seconds,
        "peak bytes": ran.peak,
        "of the budget": ran.peak / budget,
        "kills": len(ran.kills),
    }


if __name__ == "__main__":
    main()
