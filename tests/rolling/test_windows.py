"""What is left of a window that training has gone beyond: on storage, and in memory."""

from pathlib import Path

import numpy as np
import pytest

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.loader.window_reader import WindowReader
from tasks.activations.windows import WindowUris, shards_of
from tasks.activations.writer import Rows
from tasks.errors import ArtifactError
from tasks.harvest.rolling.ledger import WindowLedger
from tests.stored import store_hooks

ROWS, BATCH = 48, 16


@pytest.fixture
def windows(tmp_path: Path) -> WindowUris:
    found, i = WindowUris(f"{tmp_path}/w"), np.arange(ROWS)
    rows = Rows(np.stack([i, -i], axis=1).astype(np.float32), i.astype(np.int32), i.astype(np.int64), i.astype(np.int32))
    for number in range(3):
        store_hooks(found.uri(number), {"layer": ([rows], [rows])}, row_group_rows=16)
    return found


def reader(windows: WindowUris) -> WindowReader:
    return WindowReader(windows, ["layer"], batch_rows=BATCH, lanes=4, seed=5)


@pytest.mark.parametrize("number", [0, 1])
def test_rows_that_are_gone_are_told_of_in_one_sentence(number: int, windows: WindowUris) -> None:
    ledger, steps = WindowLedger(windows, [[]], "none", "float32"), ROWS // BATCH
    before = shards_of(windows.uri(number))
    for _ in range(2):
        ledger.consume(number)
    assert ledger.rows(number) == ROWS
    assert shards_of(windows.uri(number)) == before
    with pytest.raises(ArtifactError, match=r"were deleted, as there was a checkpoint beyond them"):
        list(reader(windows).batches(number * steps, 1))
    assert len(list(reader(windows).batches((number + 1) * steps, steps))) == steps


def test_a_window_s_row_groups_are_let_go_when_the_next_one_is_read(
    windows: WindowUris, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[LaneReader] = []
    make = WindowReader._reader

    def reader_of(self: WindowReader, number: int) -> LaneReader:
        assert [past._kept.cache_info().currsize for past in found] == [0] * len(found)
        found.append(make(self, number))
        return found[-1]

    monkeypatch.setattr(WindowReader, "_reader", reader_of)
    batches = reader(windows).batches(0, 3 * ROWS // BATCH)
    next(batches)
    assert found[0]._kept.cache_info().currsize > 0
    assert len(list(batches)) == 3 * ROWS // BATCH - 1
    assert [past._kept.cache_info().currsize for past in found] == [0] * 3
