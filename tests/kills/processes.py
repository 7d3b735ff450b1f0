"""Processes that are started to be killed, or found by what Ray calls them."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import psutil

from tests.conftest import ROOT
from tests.patience import PATIENCE_S

HARVESTER, WORKER, CONTROLLER = "ray::Harvester", "ray::RayTrainWorker", "ray::TrainingJob"
"""How Ray titles a harvest's actors, which may still be loading their model, and the processes of a training job."""
FOLLOWER = "ray::Follower"
"""A process beside an actor that holds a part of its model."""


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


def kill_tree(process: psutil.Process) -> None:
    """kill -9 of a process and all of its descendants, the root first so that nothing cleans up."""
    with contextlib.suppress(psutil.NoSuchProcess):
        kill([process, *process.children(recursive=True)])


def told(module: str, *arguments: object) -> dict[str, Any]:
    """What a module prints, run in a process of its own, where it may fork and have clusters that disturb nobody."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        # OpenMP's threads do not survive a fork. At Ray's usual nice 15, workers get nothing to do while other tests run.
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},
        capture_output=True,
        text=True,
        timeout=1.5 * PATIENCE_S,  # four starts of Ray Train, one after the other
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray says there that a raylet died
    found: dict[str, Any] = json.loads(line)
    return found
