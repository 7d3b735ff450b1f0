"""Kills at random moments; tests/benchmarks/kills/harvest.py survives as many as it is told to."""

import os
from pathlib import Path

import pytest

from tests.harvest.kill_points import IN_ACTOR
from tests.harvest.kills import Command, write_config
from tests.harvest.random_kills import survive
from tests.kills.processes import told
from tests.sampled import examples
from tests.turns import kills_a_harvest

KILLS = int(os.environ.get("SAEMILL_KILLS", examples(2, 12)))
FORKED_KILLS = int(os.environ.get("SAEMILL_FORKED_KILLS", examples(20, 100)))


@kills_a_harvest
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_harvest_by_actors_survives_kills_at_random_moments(tmp_path: Path) -> None:
    import ray

    settings = {"ray.address": ray.get_runtime_context().gcs_address, "harvest.actors": 2}
    config_path = write_config(tmp_path, characters=20_000)
    undisturbed = Command(config_path, str(tmp_path / "undisturbed/runs"), tmp_path / "undisturbed", settings)
    assert undisturbed.run() == 0, undisturbed.said()
    survived = survive(undisturbed, tmp_path, settings, KILLS, seed=0)
    assert survived.kills.total() == KILLS


def test_a_harvest_in_one_process_survives_a_kill_at_each_point_and_many_at_random(tmp_path: Path) -> None:
    survived = told("tests.harvest.forked_kills", write_config(tmp_path), tmp_path, FORKED_KILLS, 0)
    assert survived["points"] == [*IN_ACTOR, "manifest"]
    assert survived["kills"] >= FORKED_KILLS
