import hashlib
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks.activations.loader.lane_reader
from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.loader.shuffle_order import UNITS_MIXED, batches, deal
from tasks.activations.reader import Split
from tasks.activations.row_ranges import Unit
from tasks.activations.schema import to_float32
from tasks.errors import ArtifactError, InputError
from tasks.storage.objects import open_store

Store = Callable[..., str]


def reader(uri: str, rank: int = 0, world_size: int = 1, seed: int = 3) -> LaneReader:
    return LaneReader(uri, "layer", batch_rows=16, lanes=8, seed=seed, rank=rank, world_size=world_size)


def numbers(batch: np.ndarray) -> list[int]:
    return batch[:, 0].astype(int).tolist()


# Recorded from the first version, which gathered rows by np.concatenate and a permutation: trained SAEs depend on it.
ORDERS = [
    # shards, row group, batch, lanes, seed, workers, rank, first step, steps
    ([50, 33, 41], 7, 16, 8, 3, 1, 0, 0, 40, "a8583131709e3c26"),
    ([50, 33, 41], 7, 16, 8, 3, 4, 1, 13, 20, "d359b173aeb09ba5"),
    ([640, 640], 64, 32, 4, 0, 1, 0, 0, 90, "e3a37924ea943438"),
    ([1000, 3, 77], 11, 24, 3, 9, 1, 0, 500, 30, "220942b43071ba5f"),
    ([9], 7, 8, 8, 1, 1, 0, 0, 5, "b81fc6990d2cdd76"),
]


@pytest.mark.parametrize("case", ORDERS, ids=lambda case: case[-1])
def test_the_order_of_rows_is_what_it_always_was(stored: Store, case: tuple[object, ...]) -> None:
    shards, group, batch, lanes, seed, workers, rank, first, steps, recorded = case
    rows = LaneReader(
        stored(shards, row_group_rows=group),
        "layer",
        batch_rows=batch,
        lanes=lanes,
        seed=seed,
        rank=rank,
        world_size=workers,
    )
    found = hashlib.sha256()
    for rows_of_batch in rows.batches(first, steps):
        found.update(rows_of_batch[:, 0].astype("<i4").tobytes())
    assert found.hexdigest()[:16] == recorded


@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
def test_batches_hold_the_same_rows_for_any_number_of_workers(stored: Store, world_size: int) -> None:
    uri = stored([50, 33, 41])

    def by_lane(rank: int, of: int) -> dict[int, list[list[int]]]:
        """Each lane's rows, batch by batch."""
        rows = LaneReader(uri, "layer", batch_rows=48, lanes=16, seed=3, rank=rank, world_size=of)
        found = [np.split(batch[:, 0].astype(int), 16 // of) for batch in rows.batches(5, 20)]
        return {lane: [batch[turn].tolist() for batch in found] for turn, lane in enumerate(range(rank, 16, of))}

    together: dict[int, list[list[int]]] = {}
    for rank in range(world_size):
        together |= by_lane(rank, world_size)
    assert together == by_lane(0, 1)


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


def test_an_error_in_the_background_reaches_the_reader(stored: Store) -> None:
    uri = stored([50, 33, 41])
    batches = reader(uri)
    for found in list(open_store(uri).list("layer/")):
        open_store(uri).delete(found.key)
    with pytest.raises(ArtifactError, match="missing"):
        list(batches.batches(0, 4))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 50), min_size=8, max_size=60), st.integers(1, 8), st.integers(0, 5))
def test_dealing_gives_each_unit_to_one_lane_and_balances_rows(sizes: list[int], lanes: int, seed: int) -> None:
    units = [Unit(0, 0, size, i) for i, size in enumerate(sizes)]
    dealt = deal(units, lanes, seed)
    assert sorted(u.row_group for lane in dealt for u in lane) == list(range(len(sizes)))
    loads = [sum(u.rows for u in lane) for lane in dealt]
    assert max(loads) - min(loads) <= max(sizes)


def name_rows(units: Iterator[Unit]) -> Iterator[np.ndarray]:
    """Row r of row group g is the number 100 g + r."""
    return (100 * unit.row_group + np.arange(unit.start, unit.stop) for unit in units)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 12), min_size=8, max_size=30),
    st.sampled_from([(lanes, workers) for lanes in (1, 2, 4, 6, 8) for workers in range(1, 9) if lanes % workers == 0]),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_every_row_comes_once_per_epoch_for_any_number_of_workers(
    sizes: list[int], lanes_and_workers: tuple[int, int], per_lane: int, seed: int
) -> None:
    lanes, workers = lanes_and_workers
    dealt = deal([Unit(0, 0, size, i) for i, size in enumerate(sizes)], lanes, seed)
    seen: list[int] = []
    for rank in range(workers):
        mine = {lane: dealt[lane] for lane in range(rank, lanes, workers)}
        rows = {lane: sum(unit.rows for unit in units) for lane, units in mine.items()}
        steps = list(batches(mine, seed, per_lane, 0, -(-max(rows.values()) // per_lane), name_rows))
        for turn, n in enumerate(rows.values()):
            lane_rows = np.concatenate([step[turn * per_lane : (turn + 1) * per_lane] for step in steps])
            seen += lane_rows[:n].tolist()  # its first epoch
    assert sorted(seen) == [100 * group + row for group, size in enumerate(sizes) for row in range(size)]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=4, max_size=30), st.integers(1, 40), st.integers(0, 60))
def test_batches_begun_at_any_step_are_those_of_the_whole(sizes: list[int], per_lane: int, step: int) -> None:
    dealt = dict(enumerate(deal([Unit(0, 0, size, i) for i, size in enumerate(sizes)], 4, 0)))
    whole = [batch.tolist() for batch in batches(dealt, 0, per_lane, 0, step + 3, name_rows)]
    begun = [batch.tolist() for batch in batches(dealt, 0, per_lane, step, 3, name_rows)]
    assert begun == whole[step:]


def test_no_unit_is_asked_for_that_no_batch_needs() -> None:
    dealt = dict(enumerate(deal([Unit(0, 0, 10, i) for i in range(64)], 2, 0)))
    asked: list[Unit] = []

    def greedy(units: Iterator[Unit]) -> Iterator[np.ndarray]:
        asked.extend(units)
        return name_rows(iter(asked))

    assert len(list(batches(dealt, 0, 20, 0, 3, greedy))) == 3
    assert len(asked) == 2 * 2 * UNITS_MIXED  # 60 rows of either lane are of two blocks of 40


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_batches_hold_the_same_rows_in_every_stored_precision(stored: Store, dtype: str) -> None:
    exact = [numbers(batch) for batch in reader(stored([50, 33, 41])).batches(0, 20)]
    found = [to_float32(batch, dtype) for batch in reader(stored([50, 33, 41], dtype=dtype)).batches(0, 20)]
    assert [np.round(batch[:, 0]).astype(int).tolist() for batch in found] == exact
    assert all((np.round(batch[:, 1]) == -np.round(batch[:, 0])).all() for batch in found)


@pytest.mark.parametrize("threads", [1, 3, 8, 20])
def test_pieces_that_several_threads_read_make_up_the_same_batches(stored: Store, threads: int) -> None:
    rows = reader(stored([50, 33, 41]), rank=1, world_size=2)  # four lanes
    found = list(rows.pieces(3, 25, threads))
    assert {len(pieces) for pieces in found} == {min(threads, 4)}
    expected = [numbers(batch) for batch in rows.batches(3, 25)]
    assert [numbers(np.concatenate(pieces)) for pieces in found] == expected


def test_a_batch_is_never_written_to_again(stored: Store) -> None:
    found = [(batch, batch.copy()) for batch in reader(stored([50, 33, 41])).batches(0, 30)]
    assert all((batch == copy).all() for batch, copy in found)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """What is read of a split from now on."""
    seen: list[Unit] = []
    read = Split.activations

    def counted(self: Split, unit: Unit) -> np.ndarray:
        seen.append(unit)
        return read(self, unit)

    monkeypatch.setattr(Split, "activations", counted)
    return seen


def test_of_a_small_split_each_row_group_is_decoded_once(stored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, seen = stored([50, 33, 41], row_group_rows=25), reads(monkeypatch)
    assert len(list(reader(uri).batches(0, 40))) == 40
    assert Counter(seen) == dict.fromkeys(Split(uri, "layer", "train").units(), 1)


def test_what_is_kept_of_a_small_split_is_bounded(stored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, seen = stored([50, 33, 41], row_group_rows=25), reads(monkeypatch)
    monkeypatch.setattr(tasks.activations.loader.lane_reader, "HELD_BYTES", 1)
    assert [numbers(b) for b in reader(uri).batches(0, 40)]
    assert max(Counter(seen).values()) > 1


def copied_to_s3(uri: str, s3: str) -> str:
    there = f"{s3}/{uri.rpartition('/')[2]}"
    for info in open_store(uri).list():
        open_store(there).put(info.key, open_store(uri).get(info.key))
    return there


@pytest.mark.s3
@pytest.mark.parametrize("held_bytes", [1, 2**20])
@pytest.mark.parametrize("row_group_rows", [5, 64])
def test_batches_from_s3_are_those_from_disk(
    stored: Store, s3: str, monkeypatch: pytest.MonkeyPatch, row_group_rows: int, held_bytes: int
) -> None:
    monkeypatch.setattr(tasks.activations.loader.lane_reader, "HELD_BYTES", held_bytes)
    uri = stored([640, 33, 200], row_group_rows=row_group_rows)
    there = copied_to_s3(uri, f"{s3}/lanes-{row_group_rows}-{held_bytes}")
    assert [numbers(b) for b in reader(there).batches(3, 70)] == [numbers(b) for b in reader(uri).batches(3, 70)]
