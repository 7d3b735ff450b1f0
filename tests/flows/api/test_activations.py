from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import saemill
from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.writer import Rows
from tasks.storage.artifacts import write_manifest
from tests.stored import store_hooks

ROWS, D_IN = 200, 6


def rows(n: int, first: int) -> Rows:
    """Rows whose first number is their own."""
    activation = np.random.default_rng(first).normal(size=(n, D_IN)).astype(np.float32)
    activation[:, 0] = np.arange(first, first + n)
    numbers = np.arange(first, first + n)
    return Rows(activation, np.zeros(n, np.int32), numbers // 10, (numbers % 10).astype(np.int32))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    shards = ([rows(120, 0), rows(80, 120)], [rows(30, 200)])
    return store_hooks(f"{tmp_path}/activations-{'c' * 12}", {"a": shards})


def numbers(batches: Iterable[torch.Tensor]) -> list[int]:
    """Which rows these batches are of."""
    return [int(number) for batch in batches for number in batch[:, 0]]


def test_batches_are_those_that_a_run_trains_on(uri: str) -> None:
    found = saemill.activations(uri, batch_size=32, seed=3)
    expected = LaneReader(uri, "a", batch_rows=32, lanes=16, seed=3).batches(0, len(found))
    assert [batch.tolist() for batch in found] == [batch.tolist() for batch in expected]


def test_an_epoch_has_every_row_once_and_the_next_another_order(uri: str) -> None:
    found = saemill.activations(uri, batch_size=20)
    assert (len(found), found.rows, found.d_in) == (10, ROWS, D_IN)
    first, second = numbers(found), numbers(found)
    assert len(first) == len(second) == ROWS
    assert len({*first}) > 0.9 * ROWS  # lanes differ by a few rows
    assert first != second


def test_one_number_is_enough_to_go_on(uri: str) -> None:
    found = saemill.activations(uri, batch_size=20)
    list(found)
    list(islice(found, 3))
    state = found.state_dict()
    assert state == {"position": 13}
    resumed = saemill.activations(uri, batch_size=20)
    resumed.load_state_dict(state)
    assert [batch.tolist() for batch in resumed] == [batch.tolist() for batch in found]
    assert resumed.position == 20


@pytest.mark.parametrize("done", [0, 1, 4, 6])
def test_in_stored_order_every_row_comes_once_and_it_goes_on_in_the_middle(done: int, uri: str) -> None:
    found = saemill.activations(uri, batch_size=32, shuffle=False)
    assert len(found) == 7
    begun = list(islice(found, done))
    resumed = saemill.activations(uri, batch_size=32, shuffle=False)
    resumed.load_state_dict(found.state_dict())
    assert numbers([*begun, *resumed]) == list(range(ROWS))


def test_batches_may_be_of_the_held_out_rows_and_of_another_precision(uri: str) -> None:
    found = saemill.activations(uri, batch_size=8, split="eval", shuffle=False, dtype=torch.bfloat16)
    assert {batch.dtype for batch in found} == {torch.bfloat16}
    assert found.rows == 30
    assert "30 eval rows, d_in 6, 4 batches of 8, in stored order, at batch 4" in repr(found)


def test_several_hooks_have_to_be_named_and_stand_side_by_side(tmp_path: Path) -> None:
    shards = ([rows(60, 0)], [rows(10, 60)])
    uri = store_hooks(f"{tmp_path}/activations-{'d' * 12}", {"a": shards, "b": shards})
    with pytest.raises(saemill.InputError, match="has the hooks a, b; say with hook="):
        saemill.activations(uri)
    with pytest.raises(saemill.InputError, match="has no hook 'c'; it has a, b"):
        saemill.activations(uri, hook="c")
    [batch] = islice(saemill.activations(uri, hook=["a", "b"], batch_size=16), 1)
    assert torch.equal(batch[:, :D_IN], batch[:, D_IN:])
    assert saemill.activations(uri, hook="b:output").hooks == ("b",)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_impossible_batch_sizes_are_refused(size: object, uri: str) -> None:
    with pytest.raises(saemill.InputError, match="batch_size is"):
        saemill.activations(uri, batch_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [{}, {"position": -1}, {"position": "3"}])
def test_the_state_of_something_else_is_refused(state: dict[str, int], uri: str) -> None:
    with pytest.raises(saemill.InputError, match="expected was a position"):
        saemill.activations(uri).load_state_dict(state)


def test_a_directory_of_another_stage_is_refused(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), {"stage": "scores"})
    with pytest.raises(saemill.InputError, match="of stage scores; an activations directory was expected"):
        saemill.activations(tmp_path)
