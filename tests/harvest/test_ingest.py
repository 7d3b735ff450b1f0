from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from flows.config import PipelineConfig, parse_config
from tasks.activations.reader import Split, read_rows
from tasks.errors import ArtifactError, InputError
from tasks.harvest.sources import open_source, source_identity, source_shape
from tasks.progress import silent
from tasks.storage.artifacts import require_manifest
from tasks.storage.objects import open_store
from tasks.storage.s3 import S3Store
from tests.composed import ingest

ROWS = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)


def npy(folder: Path) -> dict[str, Any]:
    np.save(folder / "rows.npy", ROWS)
    return {"source": str(folder / "rows.npy")}


def safetensors(folder: Path) -> dict[str, Any]:
    save_file({"x": torch.from_numpy(ROWS), "y": torch.zeros(3)}, folder / "rows.safetensors")
    return {"source": str(folder / "rows.safetensors"), "tensor": "x"}


def list_column(folder: Path) -> dict[str, Any]:
    pq.write_table(pa.table({"v": pa.array(list(ROWS), pa.list_(pa.float32()))}), folder / "rows.parquet")
    return {"source": str(folder / "rows.parquet"), "column": "v"}


def fixed_size_lists_in_a_folder(folder: Path) -> dict[str, Any]:
    (folder / "parts").mkdir()
    for part, rows in enumerate(np.split(ROWS, 4)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float64).ravel()), 5)
        pq.write_table(pa.table({"activation": column}), folder / "parts" / f"{part}.parquet")
    return {"source": str(folder / "parts")}


def own_schema(folder: Path) -> dict[str, Any]:
    ingest(config(folder, npy(folder)), str(folder / "first" / f"a-{'c' * 12}"), silent)
    return {"source": str(folder / "first" / f"a-{'c' * 12}")}


def config(folder: Path, activations: dict[str, Any], shard_tokens: int = 64) -> PipelineConfig:
    harvest = {"shard_tokens": shard_tokens}
    return parse_config({"storage": str(folder), "activations": activations, "harvest": harvest})


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("make", [npy, safetensors, list_column, fixed_size_lists_in_a_folder, own_schema])
def test_every_row_of_any_source_lands_in_one_split_exactly(make: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    out = str(tmp_path / f"x-{'d' * 12}")
    ingest(config(tmp_path, make(tmp_path)), out, silent)
    stored = [read_rows(out, "source", split) for split in ("train", "eval")]
    assert 5 < len(stored[1]) < 50
    np.testing.assert_array_equal(in_order(np.concatenate(stored)), in_order(ROWS))


def test_statistics_are_those_of_the_training_rows(tmp_path: Path) -> None:
    out = str(tmp_path / f"x-{'d' * 12}")
    ingest(config(tmp_path, npy(tmp_path)), out, silent)
    train = read_rows(out, "source", "train").astype(np.float64)
    found = require_manifest(out)["hooks"]["source"]["statistics"]["train"]
    assert found["mean"] == pytest.approx(train.mean(axis=0))
    assert found["variance"] == pytest.approx(train.var(axis=0).sum())


def test_labels_follow_their_rows(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("".join(f"row {n}\n" for n in range(200)))
    out = str(tmp_path / f"x-{'d' * 12}")
    ingest(config(tmp_path, {**npy(tmp_path), "labels": str(tmp_path / "labels.txt"), "eval_fraction": 0}), out, silent)
    shard = Split(out, "source", "eval").shard(0)
    assert shard.label == [f"row {n}" for n in shard.sequence]
    np.testing.assert_array_equal(shard.activation, ROWS[shard.sequence])
    assert require_manifest(out)["eval_is_train"]


def test_an_interrupted_ingest_goes_on_to_the_same_manifest(tmp_path: Path) -> None:
    settings = config(tmp_path, npy(tmp_path))
    whole, cut = (str(tmp_path / name / f"x-{'d' * 12}") for name in ("whole", "cut"))
    ingest(settings, whole, silent)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(settings, cut, stop)
    ingest(settings, cut, silent)
    assert require_manifest(cut) == require_manifest(whole)


def test_identity_follows_the_content_and_not_the_path(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    here, there = (config(folder, npy(folder)).activations for folder in (tmp_path, tmp_path / "elsewhere"))
    assert source_identity(here) == source_identity(there)
    np.save(tmp_path / "rows.npy", ROWS + 1)
    assert source_identity(here) != source_identity(there)


def test_rows_that_stand_for_both_splits_are_read_once(tmp_path: Path) -> None:
    """Of a directory without held-out rows, which names its shards under both splits."""
    out = str(tmp_path / "first" / f"a-{'c' * 12}")
    ingest(config(tmp_path, {**npy(tmp_path), "eval_fraction": 0}), out, silent)
    assert open_source(config(tmp_path, {"source": out}).activations).n_rows == len(ROWS)


@pytest.mark.parametrize("spelt", ["rows.npy", "rows.*", "r*", "rows.np[y]"])
def test_identity_follows_the_labels_however_the_source_is_spelt(spelt: str, tmp_path: Path) -> None:
    npy(tmp_path)
    labels = tmp_path / "labels.txt"
    settings = config(tmp_path, {"source": str(tmp_path / spelt), "labels": str(labels)}).activations
    found = []
    for text in ("a\n" * 200, "b\n" * 200):
        labels.write_text(text)
        found.append(source_identity(settings))
    assert found[0] != found[1]
    labels.unlink()
    with pytest.raises(InputError, match=r"activations\.labels: there is no file"):
        source_identity(settings)


@pytest.mark.parametrize("text", ["[1, 2]", "{}", '{"files": 3}', "not json"])
def test_a_manifest_of_somebody_else_does_not_block_a_folder_of_parquet(text: str, tmp_path: Path) -> None:
    settings = config(tmp_path, fixed_size_lists_in_a_folder(tmp_path)).activations
    (tmp_path / "parts/manifest.json").write_text(text)
    assert open_source(settings).n_rows == len(ROWS)
    if text[0] != "{":  # one of saemill's own, damaged
        (tmp_path / "parts/commits").mkdir()
        with pytest.raises(ArtifactError, match=r"manifest\.json"):
            open_source(settings)


@pytest.mark.s3
@pytest.mark.parametrize("make", [npy, safetensors])
def test_of_a_matrix_on_s3_no_copy_is_left_and_its_shape_takes_the_header_alone(
    make: Callable[[Path], dict[str, Any]], s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "aside"))
    (tmp_path / "aside").mkdir()
    made = make(tmp_path)
    uri = f"{s3}/own/{tmp_path.name}/{Path(made['source']).name}"
    folder, _, name = uri.rpartition("/")
    open_store(folder).put(name, Path(made["source"]).read_bytes())
    settings = config(tmp_path, {**made, "source": uri}).activations
    source = open_source(settings)
    assert list((tmp_path / "aside").iterdir()) == []
    found = np.concatenate([rows.copy() for rows, _ in source.chunks(64)])
    np.testing.assert_array_equal(found, ROWS)
    fetched, get = [], S3Store.get

    def counted(self: S3Store, key: str, start: int = 0, length: int | None = None) -> bytes:
        fetched.append(get(self, key, start, length))
        return fetched[-1]

    monkeypatch.setattr(S3Store, "get", counted)
    monkeypatch.setattr("tasks.harvest.copies._FIRST_BYTES", 128)
    assert source_shape(settings) == ROWS.shape
    assert 0 < sum(map(len, fetched)) < 0.2 * Path(made["source"]).stat().st_size
    assert list((tmp_path / "aside").iterdir()) == []


@pytest.mark.s3
def test_what_is_wrong_with_a_matrix_on_s3_is_told_by_its_address(s3: str, tmp_path: Path) -> None:
    open_store(f"{s3}/own/{tmp_path.name}").put("rows.npy", b"\x93NUMPY and no more")
    settings = config(tmp_path, {"source": f"{s3}/own/{tmp_path.name}/rows.npy"}).activations
    for look in (open_source, source_shape):
        with pytest.raises(InputError, match=rf"activations\.source {s3}/own/.*/rows\.npy"):
            look(settings)


def ragged(folder: Path) -> dict[str, Any]:
    pq.write_table(pa.table({"activation": [[1.0, 2.0], [3.0]]}), folder / "rows.parquet")
    return {"source": str(folder / "rows.parquet")}


def vector(folder: Path) -> dict[str, Any]:
    np.save(folder / "rows.npy", ROWS[0])
    return {"source": str(folder / "rows.npy")}


def not_numpy(folder: Path) -> dict[str, Any]:
    (folder / "rows.npy").write_bytes(b"hello")
    return {"source": str(folder / "rows.npy")}


def pickled(folder: Path) -> dict[str, Any]:
    np.save(folder / "rows.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    return {"source": str(folder / "rows.npy")}


def absent(folder: Path) -> dict[str, Any]:
    return {"source": str(folder / "nothing.npy")}


def two_tensors(folder: Path) -> dict[str, Any]:
    return {**safetensors(folder), "tensor": None}


def no_such_column(folder: Path) -> dict[str, Any]:
    return {**list_column(folder), "column": "w"}


def short_labels(folder: Path) -> dict[str, Any]:
    (folder / "labels.txt").write_text("one\n")
    return {**npy(folder), "labels": str(folder / "labels.txt")}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ragged, "not all 2 numbers long"),
        (vector, r"shape \[5\]; a matrix of numbers \[n, d_in\] was expected"),
        (not_numpy, "is no .npy file"),
        (pickled, "Python objects, which are never unpickled"),
        (absent, "no file or folder that is there"),
        (two_tensors, "must be one of those in .*: x, y"),
        (no_such_column, "has no column .*; it has v"),
        (short_labels, "1 lines, the source has 200 rows"),
    ],
)
def test_a_bad_source_is_refused_in_one_sentence(
    make: Callable[[Path], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        list(open_source(config(tmp_path, make(tmp_path)).activations).chunks(100))


def test_a_row_that_is_not_finite_is_named(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[70, 2] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    settings = config(tmp_path, {"source": str(tmp_path / "rows.npy")})
    with pytest.raises(InputError, match=r"Row 70 .* is not finite"):
        ingest(settings, str(tmp_path / f"x-{'d' * 12}"), silent)
