"""Workers killed at every point without Ray, in milliseconds each; test_kill_matrix.py does so with it, in seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.patience import PATIENCE_S
from tests.sampled import every_case
from tests.train.kill_points import IN_WORKER


def test_a_worker_killed_at_each_point_without_ray_leaves_a_run_that_ends_undisturbed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.forked_kills", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # OpenMP's threads do not survive a fork
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    survived = json.loads(done.stdout.splitlines()[-1])
    assert [1, *IN_WORKER] in survived
    assert [2, *IN_WORKER] in survived
    assert len(survived) == (10 if every_case() else 2)
