from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ArtifactError, InputError
from tasks.store.lanes import LaneReader, deal
from tasks.store.objects import open_store
from tasks.store.reader import Split, Unit, read_rows
from tasks.store.schema import to_float32

Store = Callable[..., str]


def reader(uri: str, rank: int = 0, world_size: int = 1, seed: int = 3) -> LaneReader:
    return LaneReader(uri, "layer", batch_rows=16, lanes=8, seed=seed, rank=rank, world_size=world_size)


def numbers(batch: np.ndarray) -> list[int]:
    return batch[:, 0].astype(int).tolist()


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_batches_hold_the_same_rows_for_any_number_of_workers(stored: Store, world_size: int) -> None:
    uri = stored([50, 33, 41])
    alone = [sorted(numbers(b)) for b in reader(uri).batches(0, 20)]
    ranks = [list(reader(uri, rank, world_size).batches(0, 20)) for rank in range(world_size)]
    together = [sorted(n for part in parts for n in numbers(part)) for parts in zip(*ranks, strict=True)]
    assert together == alone


@pytest.mark.parametrize("step", [1, 7, 8, 19, 40])
def test_a_reader_begun_at_a_step_goes_on_as_if_it_had_never_stopped(stored: Store, step: int) -> None:
    uri = stored([50, 33, 41])
    whole = [numbers(b) for b in reader(uri).batches(0, 45)]
    assert [numbers(b) for b in reader(uri).batches(step, 45 - step)] == whole[step:]


def test_every_row_is_seen_equally_often_up_to_one(stored: Store) -> None:
    uri = stored([64, 64])
    seen = Counter(n for b in reader(uri).batches(0, 3 * 128 // 16) for n in numbers(b))
    assert set(seen.values()) == {3}


def test_two_epochs_come_in_different_orders(stored: Store) -> None:
    batches = [numbers(b) for b in reader(stored([64, 64])).batches(0, 16)]
    assert batches[:8] != batches[8:]


def test_batches_are_not_in_stored_order(stored: Store) -> None:
    first = numbers(next(iter(reader(stored([640, 640], row_group_rows=64)).batches(0, 1))))
    assert max(first) - min(first) > 600


def test_fewer_rows_than_lanes_are_refused(stored: Store) -> None:
    with pytest.raises(InputError, match=r"5 rows .* train.lanes \(8\)"):
        reader(stored([5]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rows_come_back_in_order_and_exactly(stored: Store, dtype: str) -> None:
    rows = to_float32(read_rows(stored([20, 11], dtype=dtype), "layer", "train", max_rows=25), dtype)
    assert rows[:, 0].tolist() == list(range(25))
    assert rows[:, 1].tolist() == [-n for n in range(25)]


def test_a_shard_comes_back_with_its_places(stored: Store) -> None:
    rows = Split(stored([20, 11]), "layer", "train").shard(1)
    assert rows.token_id.tolist() == list(range(20, 31))
    assert rows.sequence[:3].tolist() == [5, 5, 5]


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (3, 5), (6, 15), (7, 14), (13, 20), (19, 20)])
def test_a_part_of_a_shard_is_the_same_rows_of_the_whole(stored: Store, start: int, stop: int) -> None:
    rows = Split(stored([3, 20]), "layer", "train").shard(1, start, stop)
    assert rows.token_id.tolist() == list(range(3 + start, 3 + stop))
    assert numbers(rows.activation) == list(range(3 + start, 3 + stop))


def test_places_are_read_without_activations(stored: Store) -> None:
    sequence, position = Split(stored([20, 11]), "layer", "train").places(1)
    assert sequence[:5].tolist() == [5, 5, 5, 5, 6]
    assert position[:5].tolist() == [0, 1, 2, 3, 0]


def test_a_missing_shard_is_named(stored: Store) -> None:
    uri = stored([20, 11])
    key = next(o.key for o in open_store(uri).list("layer/train/00001"))
    open_store(uri).delete(key)
    with pytest.raises(ArtifactError, match=key):
        read_rows(uri, "layer", "train")


def test_a_truncated_shard_is_named(stored: Store) -> None:
    uri = stored([20])
    key = next(o.key for o in open_store(uri).list("layer/"))
    open_store(uri).put(key, open_store(uri).get(key, 0, 300))
    with pytest.raises(ArtifactError, match=key):
        read_rows(uri, "layer", "train")


def test_an_error_in_the_background_reaches_the_reader(stored: Store) -> None:
    uri = stored([50, 33, 41])
    batches = reader(uri)
    for found in list(open_store(uri).list("layer/")):
        open_store(uri).delete(found.key)
    with pytest.raises(ArtifactError, match="missing"):
        list(batches.batches(0, 4))


@given(st.lists(st.integers(1, 50), min_size=8, max_size=60), st.integers(1, 8), st.integers(0, 5))
def test_dealing_gives_each_unit_to_one_lane_and_balances_rows(sizes: list[int], lanes: int, seed: int) -> None:
    units = [Unit(0, i, 0, size) for i, size in enumerate(sizes)]
    dealt = deal(units, lanes, seed)
    assert sorted(u.row_group for lane in dealt for u in lane) == list(range(len(sizes)))
    loads = [sum(u.rows for u in lane) for lane in dealt]
    assert max(loads) - min(loads) <= max(sizes)
