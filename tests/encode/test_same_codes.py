"""Scoring and ``saemill encode`` see the same codes, to the bit."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.activations.reader import Split
from tasks.activations.writer import Rows
from tasks.encode import chunks, encode, files, pieces
from tasks.progress import silent
from tasks.sae import load, save
from tasks.score.config import ScoreConfig
from tasks.score.examples import Hits
from tasks.score.survey import survey
from tasks.storage.artifacts import require_manifest
from tests.interchange.conftest import D_IN, Make
from tests.score.conftest import StoreRows

CHUNK, PIECE, ROW_GROUP = 16, 50, 7


def shard(n: int, first: int) -> Rows:
    """``n`` rows, each of a sequence of its own."""
    activation = 3 + 2 * np.random.default_rng(first).standard_normal((n, D_IN)).astype(np.float32)
    places = np.arange(first, first + n)
    return Rows(activation, places.astype(np.int32), places, np.zeros(n, np.int32))


@pytest.fixture
def activations(store_rows: StoreRows) -> str:
    """Held-out shards of several pieces, whose row groups end in the middle of chunks and of pieces."""
    held_out = [shard(120, 0), shard(30, 120), shard(61, 150)]
    return store_rows([shard(10, 900)], held_out, hook="model.layers.3", row_group_rows=ROW_GROUP, stage="activations")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and pieces so small that these rows have many."""
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", CHUNK)
    monkeypatch.setattr(files, "cut", lambda split: pieces.cut(split, piece_rows=PIECE))


def scored(sae: str, activations: str, max_tokens: int) -> Hits:
    """All activations that scoring sees, by row and latent."""
    split, config = Split(activations, "model.layers.3", "eval"), ScoreConfig(top_contexts=1000, quantiles=0)
    seen = []
    for piece in pieces.cut(split, max_tokens, PIECE):
        rows = split.shard(piece.shard, piece.start, piece.stop)
        seen.append(survey(load(sae), rows, "float32", piece, [1e9], config).evidence.top)
    hits = Hits.joined(seen)
    return hits.take(np.lexsort((hits.latent, hits.row)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("arch", ["topk", "batchtopk", "l1", "jumprelu", "gated"])
def test_encode_and_score_see_codes_equal_to_the_bit(arch: str, made: Make, activations: str, tmp_path: Path) -> None:
    save(made(arch).module(), sae := str(tmp_path / "sae"), {"hook": "model.layers.3"})
    encode.encode_activations(sae, activations, out := str(tmp_path / "codes"), silent, split="eval", file_rows=90)
    keys = [entry["key"] for entry in require_manifest(out)["files"]]
    tables = [pq.read_table(f"{out}/{key}") for key in keys]
    hits = scored(sae, activations, max_tokens=10**6)
    assert [table.num_rows for table in tables] == [50, 70, 80, 11]
    counts = np.concatenate([[len(row) for row in table["latents"].to_pylist()] for table in tables])
    assert np.repeat(np.arange(211), counts).tolist() == hits.row.tolist()
    for name, expected in (("latents", hits.latent.astype(np.int32)), ("values", hits.value)):
        found = np.concatenate([np.concatenate(table[name].to_numpy()) for table in tables])
        assert found.tobytes() == expected.tobytes()


@pytest.mark.usefixtures("small")
def test_scoring_fewer_rows_sees_the_same_codes_of_all_whole_chunks(made: Make, activations: str, tmp_path: Path) -> None:
    save(made("l1").module(), sae := str(tmp_path / "sae"), {"hook": "model.layers.3"})
    every, some = scored(sae, activations, 10**6), scored(sae, activations, 50 + 2 * CHUNK)
    whole = every.take(every.row < 50 + 2 * CHUNK)
    assert some.value.tobytes() == whole.value.tobytes()
