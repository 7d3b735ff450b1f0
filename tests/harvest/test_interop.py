"""The snippets of tasks/harvest/README.md for reading activations with other tools, run as they stand there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.config import parse_config
from tasks.activations.reader import Split
from tasks.activations.schema import to_float32
from tasks.progress import silent
from tasks.storage.artifacts import require_manifest
from tests.composed import ingest
from tests.harvest.conftest import Harvested
from tests.pages import ROOT, python_blocks

LISTED = '''
import json
from pathlib import Path

import numpy as np

uri, hook, split = Path(URI), HOOK, "train"
manifest = json.loads((uri / "manifest.json").read_text())
root = (uri / manifest.get("shards", ".")).resolve()
entry = manifest["hooks"][hook]
shards = entry["splits"][split]["shards"]
paths = [str(root / shard["key"]) for shard in shards]  # only what is listed counts


def matrix(raw: bytes) -> np.ndarray:
    """[n, d_in] float32 from the bytes of the column ``activation``."""
    if entry["dtype"] == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(-1, entry["d_in"])
    if entry["dtype"] == "int8":  # a float32 scale, then d_in numbers
        rows = np.frombuffer(raw, "u1").reshape(-1, 4 + entry["d_in"])
        return rows[:, 4:].view("i1") * rows[:, :4].copy().view("<f4")
    return np.frombuffer(raw, {"float16": "<f2", "float32": "<f4"}[entry["dtype"]]).astype("<f4").reshape(-1, entry["d_in"])
'''

WITH_PYARROW = """
import pyarrow.parquet as pq

for shard, path in zip(shards, paths):
    for batch in pq.ParquetFile(path).iter_batches():
        column = batch["activation"]
        width = column.type.byte_width
        raw = column.buffers()[1][column.offset * width : (column.offset + len(column)) * width]
        x = matrix(raw)
        sequence = batch["sequence"].to_numpy() + shard.get("first_sequence", 0)
"""

WITH_POLARS = """
import polars as pl

for shard, path in zip(shards, paths):
    frame = pl.read_parquet(path).with_columns(pl.col("sequence") + shard.get("first_sequence", 0))
    x = matrix(b"".join(frame["activation"]))
"""

WITH_DUCKDB = """
import duckdb

counts = duckdb.sql(f"SELECT token_id, count(*) FROM read_parquet({paths}) GROUP BY ALL ORDER BY 2 DESC, 1").fetchall()
found = duckdb.sql(f"SELECT activation FROM read_parquet({paths}) WHERE token_id = {counts[0][0]}").fetchall()
x = matrix(b"".join(row[0] for row in found))
"""

DTYPES = ("bfloat16", "float16", "float32", "int8")


def run(uri: str, hook: str, *snippets: str, each: str = "") -> dict[str, Any]:
    """The snippets' names after they ran; ``each`` is put at the end of the loop."""
    names: dict[str, Any] = {"URI": uri, "HOOK": hook, "seen": []}
    exec("".join(snippets) + each, names)
    return names


@pytest.fixture(params=DTYPES)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(256, 5)).astype(np.float32))
    source = {"source": str(tmp_path / "rows.npy"), "dtype": request.param}
    cut = {"shard_tokens": 64, "row_group_rows": 16}
    config = parse_config({"storage": str(tmp_path), "name": "x", "activations": source, "harvest": cut})
    ingest(config, uri := f"{tmp_path}/activations/x-{'d' * 12}", silent)
    return uri


def expected(uri: str, hook: str) -> dict[str, np.ndarray]:
    source = Split(uri, hook, "train")
    shards = [source.shard(index) for index in range(len(source.shards))]
    found = {name: np.concatenate([getattr(rows, name) for rows in shards]) for name in ("token_id", "sequence")}
    return {**found, "activation": np.concatenate([to_float32(rows.activation, source.dtype) for rows in shards])}


def check(seen: list[tuple[np.ndarray, np.ndarray]], rows: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(np.concatenate([x for x, _ in seen]), rows["activation"])
    np.testing.assert_array_equal(np.concatenate([sequence for _, sequence in seen]), rows["sequence"])


def check_pyarrow(uri: str, hook: str) -> None:
    found = run(uri, hook, LISTED, WITH_PYARROW, each="        seen.append((x, sequence))\n")
    check(found["seen"], expected(uri, hook))


def check_polars(uri: str, hook: str) -> None:
    found = run(uri, hook, LISTED, WITH_POLARS, each='    seen.append((x, frame["sequence"].to_numpy()))\n')
    check(found["seen"], expected(uri, hook))


def check_duckdb(uri: str, hook: str) -> None:
    found, rows = run(uri, hook, LISTED, WITH_DUCKDB), expected(uri, hook)
    ids, counts = np.unique(rows["token_id"], return_counts=True)
    assert dict(found["counts"]) == dict(zip(ids.tolist(), counts.tolist(), strict=True))
    most = ids[np.argmax(counts)]
    np.testing.assert_array_equal(in_order(found["x"]), in_order(rows["activation"][rows["token_id"] == most]))


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


CHECKS = (check_pyarrow, check_polars, check_duckdb)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_own_activations_are_read_as_our_reader_reads_them(own: str, check: Any) -> None:
    check(own, "source")


@pytest.mark.ray
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_harvested_activations_are_read_as_our_reader_reads_them(harvested: Harvested, check: Any) -> None:
    check(harvested.out, "model.layers.0")


def test_what_the_manifest_does_not_list_is_not_read(own: str) -> None:
    [first, *_] = require_manifest(own)["hooks"]["source"]["splits"]["train"]["shards"]
    stray = Path(own, "source", "train", f"00000-{'0' * 12}.parquet")
    stray.write_bytes(Path(own, first["key"]).read_bytes())
    for check_one in CHECKS:
        check_one(own, "source")


def test_sequences_count_from_the_shards_first(own: str) -> None:
    path = Path(own, "manifest.json")
    manifest = json.loads(path.read_text())
    for shard in manifest["hooks"]["source"]["splits"]["train"]["shards"]:
        shard["first_sequence"] = 1000
    path.write_text(json.dumps(manifest))
    for check_one in (check_pyarrow, check_polars):
        check_one(own, "source")
    assert expected(own, "source")["sequence"].min() >= 1000


@pytest.mark.parametrize("snippet", [LISTED, WITH_PYARROW, WITH_POLARS, WITH_DUCKDB])
def test_the_readme_shows_the_snippets_as_they_run(snippet: str) -> None:
    blocks = python_blocks(ROOT / "tasks/harvest/README.md")
    assert any(snippet.strip() in block for block in blocks)
