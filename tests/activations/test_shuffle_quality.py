import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.loader.shuffle_quality import ShuffleQuality, measure, shuffle_quality
from tasks.activations.reader import Split
from tasks.storage.objects import open_store

Store = Callable[..., str]

N_ROWS, SEQUENCES_PER_DOCUMENT = 6400, 16


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    """Sequences of four tokens, 16 to a document."""
    n = N_ROWS // 4
    documents = np.repeat(np.arange(n) // SEQUENCES_PER_DOCUMENT, 4).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * 4, pa.int32()), pa.array(documents))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"document": lists}), sink, row_group_size=100)
    open_store(str(tmp_path / "tokens")).put("sequences.parquet", sink.getvalue())
    return str(tmp_path / "tokens")


def quality(uri: str, tokens: str | None = None, lanes: int = 2) -> ShuffleQuality:
    return shuffle_quality(uri, "layer", batch_rows=64, lanes=lanes, seed=0, tokens=tokens)


def test_a_lake_stored_in_order_and_read_by_few_lanes_is_shuffled_badly(stored: Store, tokens: str) -> None:
    found = quality(stored([3200, 3200], row_group_rows=64), tokens)
    assert found.ratio > 10
    assert found.ratio - 1 > 10 * found.ratio_error
    # A lane mixes four groups of 64 rows, a document each, and takes 32 of them per batch: 8 batches share four documents.
    assert found.autocorrelation[0] == pytest.approx(1 / 4, abs=0.03)
    assert found.batch_autocorrelation[0] > 5 * found.batch_autocorrelation[7]


def test_more_lanes_shuffle_it_better(stored: Store, tokens: str) -> None:
    uri = stored([3200, 3200], row_group_rows=64)
    assert quality(uri, tokens, lanes=8).ratio < quality(uri, tokens, lanes=2).ratio / 2


def test_a_well_mixed_lake_is_within_noise_of_a_uniform_shuffle(stored: Store, tokens: str) -> None:
    found = quality(stored([3200, 3200], row_group_rows=64, mixed_by=1), tokens)
    assert found.ratio_error < 0.05
    assert abs(found.ratio - 1) < 3 * found.ratio_error
    assert max(map(abs, found.autocorrelation + found.batch_autocorrelation)) < 0.005


def test_the_ideal_is_that_of_documents_or_else_of_sequences(stored: Store, tokens: str) -> None:
    uri = stored([3200, 3200])
    assert quality(uri, tokens).ideal == pytest.approx((4 * SEQUENCES_PER_DOCUMENT - 1) / (N_ROWS - 1))
    assert quality(uri).ideal == pytest.approx(3 / (N_ROWS - 1))
    assert [quality(uri, tokens).source, quality(uri).source] == ["document", "sequence"]


def test_the_batches_of_training_are_measured_without_their_activations(
    stored: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = stored([640, 123], row_group_rows=30)
    rows = LaneReader(uri, "layer", batch_rows=64, lanes=4, seed=0)
    sequences = [(batch[:, 0].astype(np.int64)) // 4 for batch in rows.batches(0, 763 // 64)]
    by_hand = measure(np.stack(sequences), np.arange(763) // 4, "sequence")
    monkeypatch.delattr(Split, "activations")
    assert quality(uri, lanes=4) == by_hand


def test_rates_and_lags_by_hand() -> None:
    stream = np.array([[1, 1, 2, 2], [2, 1, 3, 3]])
    found = measure(stream, stream.reshape(-1), "document")
    assert found.ideal == pytest.approx((3 * 2 + 3 * 2 + 2 * 1) / (8 * 7))
    assert found.collision_rate == pytest.approx((2 / 6 + 1 / 6) / 2)
    assert found.autocorrelation[0] == pytest.approx((4 / 7 - 1 / 4) / (3 / 4))
    assert found.batch_autocorrelation[0] == pytest.approx((4 / 16 - 1 / 4) / (3 / 4))
    assert math.isnan(found.autocorrelation[7])
    assert math.isnan(found.batch_autocorrelation[1])


def test_as_json_what_cannot_be_measured_is_null() -> None:
    said = measure(np.array([[0, 1], [2, 3]]), np.arange(4), "sequence").to_json()
    assert (said["ratio"], said["ideal"], said["collision_rate"]) == (None, 0.0, 0.0)
    assert said["batch_autocorrelation"] == [0.0, *[None] * 7]
    json.dumps(said, allow_nan=False)
