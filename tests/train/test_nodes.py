"""Training on many nodes, some of which go and come."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE_S
from tests.turns import kill_through_ray


def _told(module: str, folder: Path) -> dict[str, Any]:
    """What a module prints, run in a process of its own, which must not disturb the tests' cluster."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)],
        cwd=ROOT,
        # At Ray's usual nice 15, workers get nothing to do with while other tests run.
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},
        capture_output=True,
        text=True,
        timeout=1.5 * PATIENCE_S,  # four starts of Ray Train, one after the other
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray says there that a raylet died
    told: dict[str, Any] = json.loads(line)
    return told


@pytest.mark.ray
@kill_through_ray
def test_a_run_whose_nodes_die_at_each_point_and_are_replaced_ends_undisturbed(tmp_path: Path) -> None:
    assert _told("tests.train.nodes", tmp_path)["began"] == [1, 21, 21, 41]


@pytest.mark.ray
@kill_through_ray
def test_with_min_workers_a_run_goes_on_with_fewer_while_a_node_is_lost(tmp_path: Path) -> None:
    told = _told("tests.train.elastic", tmp_path)
    assert told["shares"] == [16, 32, 16]
    assert told["difference"] < 1e-4  # float32's rounding, over 1,500 steps
