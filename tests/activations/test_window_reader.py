"""Batches of one window after another."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tasks.activations.loader.window_reader import WindowReader
from tasks.activations.windows import WindowUris, window_seed
from tasks.activations.writer import Rows
from tasks.errors import InputError
from tests.stored import store_hooks

SIZES = [70, 45, 3, 90]
BATCH, LANES = 16, 4
STEPS = [70 // BATCH, 45 // BATCH, 0, 90 // BATCH]


def rows_of(first: int, n: int) -> Rows:
    """Row i has activation [i, -i]."""
    i = np.arange(first, first + n)
    activation = np.stack([i, -i], axis=1).astype(np.float32)
    return Rows(activation, i.astype(np.int32), i.astype(np.int64), np.zeros(n, np.int32))


def store_window(windows: WindowUris, number: int) -> None:
    first = sum(SIZES[:number])
    store_hooks(windows.uri(number), {"layer": ([rows_of(first, SIZES[number])], [rows_of(0, 1)])})


@pytest.fixture
def windows(tmp_path: Path) -> WindowUris:
    """Four windows of numbered rows, the third of less than a batch."""
    found = WindowUris(f"{tmp_path}/w")
    for number in range(len(SIZES)):
        store_window(found, number)
    return found


def reader(windows: WindowUris, rank: int = 0, world_size: int = 1) -> WindowReader:
    return WindowReader(windows, ["layer"], batch_rows=BATCH, lanes=LANES, seed=5, rank=rank, world_size=world_size)


def numbers(batch: np.ndarray) -> list[int]:
    found: list[int] = batch[:, 0].astype(int).tolist()
    return found


def test_each_window_gives_its_own_rows_and_as_many_batches_as_they_fill(windows: WindowUris) -> None:
    batches = [numbers(batch) for batch in reader(windows).batches(0, sum(STEPS))]
    window_of_row = np.repeat(np.arange(len(SIZES)), SIZES)
    windows_met = [{int(window_of_row[i]) for i in batch} for batch in batches]
    assert windows_met == [{number} for number, steps in enumerate(STEPS) for _ in range(steps)]
    for number in (0, 1, 3):
        seen = [i for batch, met in zip(batches, windows_met, strict=True) if met == {number} for i in batch]
        assert len(set(seen)) > 0.8 * len(seen), "rows come again only where lanes differ"


@pytest.mark.parametrize("first", [1, STEPS[0], STEPS[0] + 1, STEPS[0] + STEPS[1] + 2])
def test_a_reader_that_goes_on_gives_what_an_undisturbed_one_gives(windows: WindowUris, first: int) -> None:
    whole = [numbers(batch) for batch in reader(windows).batches(0, sum(STEPS))]
    assert [numbers(batch) for batch in reader(windows).batches(first, 3)] == whole[first : first + 3]


def test_workers_share_each_batch(windows: WindowUris) -> None:
    whole = [numbers(batch) for batch in reader(windows).batches(0, 8)]
    parts = [[numbers(batch) for batch in reader(windows, rank, 2).batches(0, 8)] for rank in (0, 1)]
    assert [sorted(one + other) for one, other in zip(*parts, strict=True)] == [sorted(batch) for batch in whole]


def test_pieces_are_the_same_batches(windows: WindowUris) -> None:
    whole = [numbers(batch) for batch in reader(windows).batches(2, 6)]
    assert [numbers(np.concatenate(pieces)) for pieces in reader(windows).pieces(2, 6, threads=3)] == whole


def test_the_opening_is_of_the_first_window_alone(windows: WindowUris) -> None:
    assert len(list(reader(windows).opening(10_000))) == STEPS[0]
    assert len(list(reader(windows).opening(BATCH + 1))) == 2


def test_a_window_ends_at_a_step_that_is_known_when_it_is_there(windows: WindowUris) -> None:
    read = reader(windows)
    ends = [step for step, _ in enumerate(read.batches(0, sum(STEPS)), start=1) if read.ends_at(step)]
    assert ends == [STEPS[0], STEPS[0] + STEPS[1], sum(STEPS)]


def test_a_row_is_found_again(windows: WindowUris) -> None:
    step = STEPS[0] + STEPS[1]
    batch = numbers(next(reader(windows).batches(step, 1)))
    place = batch[3] - sum(SIZES[:3])
    assert reader(windows).whence(step, 3).startswith(f"row {place} of layer/train/00000-")


def test_a_window_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    windows = WindowUris(f"{tmp_path}/w")
    store_window(windows, 0)
    found: list[list[int]] = []
    reading = threading.Thread(
        target=lambda: found.extend(numbers(batch) for batch in reader(windows).batches(0, STEPS[0] + 1))
    )
    reading.start()
    time.sleep(1)
    assert reading.is_alive()
    assert len(found) == STEPS[0], "batches of the window that is there are given out meanwhile"
    store_window(windows, 1)
    reading.join(30)
    assert len(found) == STEPS[0] + 1


def test_a_first_window_of_less_than_a_batch_is_refused(tmp_path: Path) -> None:
    windows = WindowUris(f"{tmp_path}/w")
    store_hooks(windows.uri(0), {"layer": ([rows_of(0, 9)], [rows_of(0, 1)])})
    with pytest.raises(InputError, match=r"first window has 9 rows, fewer than train\.batch_tokens \(16\)"):
        reader(windows)


def test_each_window_has_an_order_of_its_own() -> None:
    assert window_seed(7, 0) == 7
    assert len({window_seed(7, number) for number in range(100)} | {window_seed(8, 1)}) == 101


def test_training_rows_of_which_only_a_sample_was_kept_are_not_trained_on(tmp_path: Path) -> None:
    from tasks.activations.loader.lane_reader import LaneReader

    hooks = {"layer": ([rows_of(0, 50)], [rows_of(0, 20)])}
    uri = store_hooks(f"{tmp_path}/a", hooks, sampled={"train": {"kept": 1, "of": 9}})
    with pytest.raises(InputError, match=r"only a sample of its training rows.*harvest\.keep=all makes them again"):
        LaneReader(uri, "layer", batch_rows=16, lanes=4, seed=0)
    held_out = LaneReader(uri, "layer", batch_rows=16, lanes=4, seed=0, split="eval")
    assert len(next(held_out.batches(0, 1))) == 16
