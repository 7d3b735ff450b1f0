"""The page of a sweep: what it tells of each SAE, and that it opens from disk without a network."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect

from flows.config import parse_config
from flows.sweep import STABILITY, TABLE, about_sweep
from tasks.report.sweep import BOTTOM, LEFT, RIGHT, TOP, Axis, chart, front, render_sweep, table_rows, varied
from tests.report.conftest import Open

FVU = {(1152, 16): 0.21, (1152, 32): 0.17, (4608, 16): 0.16, (4608, 32): 0.11}


def sae(d_sae: int, k: int, seed: int, **more: Any) -> dict[str, Any]:
    row = {"member": f"d_sae {d_sae}, k {k}, seed {seed}", "arch": "topk", "d_sae": d_sae, "k": k, "seed": seed, "lr": 0.003}
    figures = {"fvu": FVU[d_sae, k] + seed / 500, "l0": float(k), "dead_fraction": 0.001}
    where = {"sae": f"../../saes/x-{d_sae}{k}{seed}", "state": "finished", "training_seconds": 75.0}
    return {"l1_coefficient": None} | row | figures | where | more


ROWS = [sae(d_sae, k, seed) for d_sae in (1152, 4608) for k in (16, 32) for seed in (0, 1)]
LOST = sae(4608, 32, 2, state="diverged", fvu=None, l0=None, dead_fraction=None, training_seconds=None)
PAIRS = [{"member": "<b>d_sae 1152</b>, k 16", "seed_a": 0, "seed_b": 1, "shared": 0.534, "mmcs": 0.712}]


def activations(folder: Path, **facts: object) -> str:
    """The manifest of activations, which is all that is read of them."""
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(facts))
    return str(folder)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    config = parse_config({"name": "grid", "activations": {"source": "rows.npy"}, "sweep": {"k": [16, 32]}})
    table, stability = (
        pa.Table.from_pylist([*ROWS, LOST], pa.schema(TABLE)),
        pa.Table.from_pylist(PAIRS, pa.schema(STABILITY)),
    )
    render_sweep(about_sweep(config), activations(out / "activations", eval_is_train=False), table, stability, str(out))
    return out


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    assert [ROWS[i]["member"] for i in front([*ROWS, LOST])] == ["d_sae 4608, k 16, seed 0", "d_sae 4608, k 32, seed 0"]


def test_only_what_differs_has_a_column() -> None:
    assert varied(ROWS) == ["d_sae", "k"]
    assert table_rows([*ROWS, LOST])[-1]["values"] == ["4,608", "32", "2"]
    assert table_rows([*ROWS, LOST])[-1]["finished"] is False


def test_points_and_ticks_lie_within_the_chart_and_better_is_lower_and_further_left() -> None:
    found = chart([*ROWS, LOST])
    assert found is not None
    assert len(found["points"]) == 8
    assert all(LEFT <= point["x"] <= RIGHT and TOP <= point["y"] <= BOTTOM for point in found["points"])
    assert all(LEFT <= tick["at"] <= RIGHT for tick in found["x_ticks"])
    worst, best = found["points"][1], found["points"][6]  # 1152, 16, seed 1 and 4608, 32, seed 0
    assert best["y"] > worst["y"]  # SVG counts downwards
    assert best["x"] > worst["x"]
    assert [item["name"] for item in found["series"]] == ["1,152 latents", "4,608 latents"]
    assert chart([LOST]) is None


@pytest.mark.parametrize(
    "values, ticks",
    [
        ([16.0, 32.0], [15.0, 20.0, 25.0, 30.0]),
        ([8.0, 128.0], [10.0, 20.0, 50.0, 100.0]),
        ([0.11, 0.21], [0.125, 0.15, 0.175, 0.2]),
        ([5.0, 5.0], [4.6, 4.8, 5.0, 5.2, 5.4]),
        ([0.0, 0.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round_numbers(values: list[float], ticks: list[float]) -> None:
    assert Axis.over(values, 0.0, 100.0).ticks() == pytest.approx(ticks)


def test_the_manifest_names_every_file_and_its_hash(page: Path) -> None:
    manifest = json.loads((page / "manifest.json").read_text())
    assert {"index.html", "table.parquet", "stability.parquet", "assets/sweep.css"} <= set(manifest["files"])
    for key, entry in manifest["files"].items():
        assert hashlib.sha256((page / key).read_bytes()).hexdigest() == entry["sha256"]
    assert pq.read_table(page / "table.parquet").num_rows == 9


def test_a_finished_page_is_left_alone(page: Path) -> None:
    before, rows = (page / "index.html").read_bytes(), pa.Table.from_pylist([], pa.schema(TABLE))
    config = parse_config({"name": "other", "activations": {"source": "rows.npy"}})
    render_sweep(about_sweep(config), "nowhere", rows, pa.Table.from_pylist([], pa.schema(STABILITY)), str(page))
    assert (page / "index.html").read_bytes() == before


@pytest.mark.parametrize("eval_is_train, words", [(False, "those of held-out rows"), (True, "the training rows themselves")])
def test_the_page_says_on_which_rows_saes_are_compared(eval_is_train: bool, words: str, tmp_path: Path) -> None:
    config = parse_config({"activations": {"source": "rows.npy"}})
    table, none = pa.Table.from_pylist(ROWS, pa.schema(TABLE)), pa.Table.from_pylist([], pa.schema(STABILITY))
    render_sweep(
        about_sweep(config),
        activations(tmp_path / "activations", eval_is_train=eval_is_train),
        table,
        none,
        str(tmp_path / "x"),
    )
    text = (tmp_path / "x/index.html").read_text()
    assert words in text
    assert "What seeds have in common" not in text


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_from_disk_and_overflows_nowhere(page: Path, open_report: Open, width: int, scheme: str) -> None:
    opened = open_report(page, width=width, scheme=scheme)
    expect(opened.get_by_role("heading", level=1)).to_have_text("grid: 9 SAEs of rows.npy")
    expect(opened.locator(".pareto circle")).to_have_count(8)
    expect(opened.locator(".swept tbody tr")).to_have_count(9)
    expect(opened.locator(".swept .on-front")).to_have_count(2)
    expect(opened.locator(".swept tbody tr").last).to_contain_text("the loss was not finite")
    expect(opened.locator(".stability td").first).to_have_text("<b>d_sae 1152</b>, k 16")
    expect(opened.locator(".stability")).to_contain_text("53.4 %")
    assert opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
