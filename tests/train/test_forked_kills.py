"""Workers killed at every point without Ray, in milliseconds each; test_kill_matrix.py does so with it, in seconds."""

from pathlib import Path

from tests.kills.processes import told
from tests.sampled import every_case
from tests.train.kill_points import IN_WORKER


def test_a_worker_killed_at_each_point_without_ray_leaves_a_run_that_ends_undisturbed(tmp_path: Path) -> None:
    survived = told("tests.train.forked_kills", tmp_path)["survived"]
    assert [1, *IN_WORKER] in survived
    assert [2, *IN_WORKER] in survived
    assert len(survived) == (12 if every_case() else 2)
