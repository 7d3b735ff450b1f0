"""The page of a match, and the line of descent in a report."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import InputError
from tasks.identity.stored import to_parquet
from tasks.identity.table import SCHEMA
from tasks.report.descent import descent, read_descent
from tasks.report.identity import CLASSES, SHOWN, histogram, identity_page, share_rows, tables, yardsticks
from tasks.report.render import render
from tests.composed import about
from tests.report.conftest import stages as stages
from tests.report.stages import Stages

KINDS = {"same": 130, "drifted": 20, "split": 2, "died": 9, "born": 5}


def version() -> pa.Table:
    rows, index = [], 0
    for kind, n in KINDS.items():
        for i in range(n):
            ended = kind == "died"
            rows.append(
                {"stable_id": f"x.1.{len(rows)}", "version": 2, "index": None if ended else index, "class": kind}
                | {"C_d": 0.5 + i / (2 * n), "C_e": 0.9, "R": None if i == 0 else 0.8, "partner": None, "nearest": 3}
                | {"n_active": i, "parents": ["x.1.<b>"] if kind == "split" else []}
            )
            index += not ended
    return pa.Table.from_pylist(rows, SCHEMA)


SUMMARY = {
    **{kind: n / 200 for kind, n in KINDS.items()},
    "merged": 0.0,
    "counts": {
        "a": {"same": 130, "drifted": 20, "split": 1, "merged": 0, "died": 9},
        "b": {"same": 130, "drifted": 20, "split": 2, "merged": 0, "born": 5},
    },
    "rows": 1_000,
    "row_split": "eval",
    "cosine": 0.93,
    "null": 0.17,
    "ceiling": {"same": 0.3, "drifted": 0.25, "cosine": 0.6},
    "silent": {"a": 1, "b": 2},
    "by_decoder_alone": {"a": 3, "b": 4},
    "least_rows": 30,
    "name": "demo",
    "versions": [1, 2],
    "a": "runs/saes/a",
    "b": "runs/saes/b",
    "permuted": None,
    "carried": {"kept": 150, "recheck": 20, "dropped": 9},
}


def test_the_page_needs_no_script_and_shows_every_class_with_null_and_ceiling() -> None:
    files = dict(identity_page(SUMMARY, version()))
    page = files["index.html"].decode()
    assert "<script" not in page
    assert "x.1.&lt;b&gt;" in page  # nothing of a table is markup
    for text in ("0.930", "0.600", "0.170", "chance 0.17", "another seed 0.60", "150 kept, 20 of them"):
        assert text in page, text
    assert all(f">{kind}" in page for kind in CLASSES)
    assert {key for key in files if key.startswith("assets/")} >= set(re.findall(r'(?:href|src)="(assets/[^"]+)"', page))


def test_shares_are_of_their_own_side_and_empty_where_a_class_cannot_be() -> None:
    found = {row["name"]: row for row in share_rows(SUMMARY["counts"])}
    assert found["same"]["a"] == {"count": "130", "share": "81.2 %", "part": 81.25}
    assert found["died"]["b"] is None
    assert found["born"]["a"] is None


def test_without_a_ceiling_the_null_still_stands_beside() -> None:
    names = [row["name"] for row in yardsticks({**SUMMARY, "ceiling": None})]
    assert names == ["B", "Chance"]


def test_bars_stack_to_the_number_of_latents_and_leave_out_what_was_not_measured() -> None:
    table = version()
    chart = histogram("R", table["R"], table["class"], [("chance", 0.17)])
    assert chart is not None
    at_08 = [bar for bar in chart["bars"] if "0.800" in bar["tip"]]
    measured = sum(KINDS.values()) - len(KINDS)
    assert sum(int(bar["tip"].split()[0]) for bar in chart["bars"]) == measured
    assert len(at_08) == len(chart["bars"]) == len(KINDS)
    assert sum(bar["height"] for bar in at_08) == pytest.approx(chart["bottom"] - chart["top"], abs=0.5)
    assert histogram("R", pa.chunked_array([pa.nulls(2, pa.float32())]), pa.chunked_array([["same", "born"]]), []) is None


def test_long_tables_are_cut_and_say_so() -> None:
    found = {table["name"]: table for table in tables(version())}
    assert len(found["same"]["rows"]) == SHOWN
    assert found["same"]["more"]
    assert found["same"]["rows"][0]["n_active"] == "129"
    assert found["died"]["rows"][0]["where"] == "A only"
    assert "merged" not in found


def lineage(n: int) -> pa.Table:
    """Two versions: in the second each latent but the last stands one further, the last is born."""
    first = [{"stable_id": f"x.1.{i}", "version": 1, "index": i, "class": "born", "parents": []} for i in range(n)]
    second = [
        {"stable_id": f"x.1.{i}", "version": 2, "index": i + 1, "class": "same", "C_d": 0.95123, "R": 0.9, "parents": []}
        for i in range(n - 1)
    ]
    gone = {"stable_id": f"x.1.{n - 1}", "version": 2, "index": None, "class": "died", "parents": []}
    new = {"stable_id": "x.2.0", "version": 2, "index": 0, "class": "split", "parents": ["x.1.0"]}
    return pa.Table.from_pylist([*first, *second, gone, new], SCHEMA)


def test_a_line_of_descent_goes_back_to_birth() -> None:
    found = descent(lineage(4), "somewhere")
    assert [line["id"] for line in found] == ["x.2.0", "x.1.0", "x.1.1", "x.1.2"]
    assert found[0]["parents"] == ["x.1.0"]
    assert found[1]["steps"] == [
        {"version": 1, "index": 0, "class": "born", "C_d": None, "R": None},
        {"version": 2, "index": 1, "class": "same", "C_d": 0.951, "R": 0.9},
    ]


def matched(folder: Path, stages: Stages, sha256: str) -> str:
    n = pq.read_table(f"{stages.scores}/latents.parquet").num_rows
    folder.mkdir()
    (folder / "identity.parquet").write_bytes(to_parquet(lineage(n)))
    (folder / "manifest.json").write_text(json.dumps({"stage": "matches", "sae_sha256": sha256}))
    return str(folder)


def test_a_report_shows_the_line_of_descent_of_the_sae_that_the_match_ends_with(stages: Stages, tmp_path: Path) -> None:
    sae = tmp_path / "sae"
    shutil.copytree(stages.sae, sae)
    (sae / "sae.safetensors").write_bytes(b"weights")
    uri = matched(tmp_path / "match", stages, hashlib.sha256(b"weights").hexdigest())
    out = tmp_path / "report"
    render(about(stages.config), stages.tokens, stages.activations, str(sae), stages.scores, str(out), uri)
    chunk = (out / "data/latents-00000.js").read_text()
    assert '"x.2.0"' in chunk
    assert '"descent"' in chunk
    other = matched(tmp_path / "other", stages, "0" * 64)
    with pytest.raises(InputError, match="whose last version is another SAE"):
        read_descent(other, str(sae))
    with pytest.raises(InputError, match="a finished directory was expected"):
        read_descent(stages.scores, str(sae))
