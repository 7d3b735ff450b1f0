from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import saemill
from tasks.storage.artifacts import write_manifest
from tasks.storage.objects import open_store

LATENTS = pa.table(
    {
        "latent": pa.array([1, 0, 2], pa.int32()),
        "density": [0.5, 0.25, 0.0],
        "promoted": pa.array([[{"token": " a", "logit": 1.5}], [], []]),
    }
)
EXAMPLES = pa.table(
    {
        "latent": pa.array([0, 0, 1], pa.int32()),
        "kind": ["top", "q1", "top"],
        "rank": pa.array([0, 0, 0], pa.int32()),
        "tokens": [["b", "c"], ["d"], []],
        "token_activations": [[0.0, 2.0], [1.0], []],
    }
)


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """A scores directory of three latents."""
    store = open_store(str(tmp_path))
    for name, table in (("latents", LATENTS), ("examples", EXAMPLES)):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        store.put(f"{name}.parquet", sink.getvalue().to_pybytes())
    write_manifest(str(tmp_path), {"stage": "scores"})
    return tmp_path


def test_latents_are_rows_by_their_number(scores: Path) -> None:
    frame = saemill.latents(scores)
    assert frame.index.tolist() == [0, 1, 2]
    assert frame.density.tolist() == [0.25, 0.5, 0.0]
    assert [dict(each) for each in frame.promoted[1]] == [{"token": " a", "logit": 1.5}]
    assert frame.sort_values("density", ascending=False).index[0] == 1


def test_examples_are_rows_by_context_and_those_of_one_latent_are_told_apart(scores: Path) -> None:
    assert saemill.examples(str(scores)).kind.tolist() == ["top", "q1", "top"]
    of_one = saemill.examples(scores, latent=0)
    assert of_one.latent.tolist() == [0, 0]
    assert list(of_one.tokens[0]) == ["b", "c"]


def test_a_directory_of_another_stage_is_refused(tmp_path: Path) -> None:
    write_manifest(str(tmp_path / "sae"), {"stage": "saes"})
    with pytest.raises(
        saemill.InputError, match="of stage saes; the URI of scores was expected, as saemill score prints it"
    ):
        saemill.latents(tmp_path / "sae")


def test_an_unfinished_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(saemill.ArtifactError, match="unfinished or absent"):
        saemill.examples(tmp_path)
