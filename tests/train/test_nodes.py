"""Training on many nodes, some of which go and come."""

from pathlib import Path

import pytest

from tests.kills.processes import told
from tests.turns import kills_a_training


@pytest.mark.ray
@kills_a_training
def test_a_run_whose_nodes_die_at_each_point_and_are_replaced_ends_undisturbed(tmp_path: Path) -> None:
    assert told("tests.train.nodes", tmp_path)["began"] == [1, 21, 21, 41]


@pytest.mark.ray
@kills_a_training
def test_with_min_workers_a_run_goes_on_with_fewer_while_a_node_is_lost(tmp_path: Path) -> None:
    found = told("tests.train.elastic", tmp_path)
    assert found["shares"] == [16, 32, 16]
    assert found["difference"] < 1e-4  # float32's rounding, over 1,500 steps
