"""Kills at random moments; tests/benchmarks/kills/train.py survives as many as it is told to."""

import os
from pathlib import Path

import pytest

from tests.sampled import examples
from tests.train.random_kills import commands, survive
from tests.turns import kills_a_training

KILLS = int(os.environ.get("SAEMILL_KILLS", examples(2, 12)))


@kills_a_training
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_training_survives_kills_at_random_moments(tmp_path: Path) -> None:
    import ray

    make = commands(tmp_path, ray.get_runtime_context().gcs_address)
    assert survive(make, KILLS, seed=0).kills.total() == KILLS
