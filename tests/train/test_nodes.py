"""Training on many nodes, some of which go and come."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.ray
def test_a_run_whose_nodes_die_at_each_point_and_are_replaced_ends_undisturbed(tmp_path: Path) -> None:
    """In a process of its own, which must not disturb the tests' cluster."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.nodes", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray says there that a raylet died
    assert json.loads(line)["began"] == [1, 21, 21, 41]
