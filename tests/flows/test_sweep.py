"""``saemill sweep`` from settings to the page, on the textbook example."""

import json
from pathlib import Path

import pytest

from flows.addresses import Placed, addresses
from flows.commands.sweep import sweep
from flows.config import load_config
from flows.pipeline import run_pipeline
from flows.sweep import SweepResult, described
from tasks.progress import silent
from tasks.storage.artifacts import resolve
from tests.composed import members, run_of
from tests.conftest import LOOPBACK, watched_listening
from tests.flows.test_cli import DEMO, ROOT, exit_code

TOY = str(ROOT / "configs/toy.yaml")
SETTINGS = (
    "sweep.archs=[topk, l1]",
    "sweep.seeds=[0, 1]",
    "sae.k=2",
    "sae.l1_coefficient=0.05",
    "train.tokens=4000",
    "train.workers=2",
)


def test_a_sweep_without_values_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("sweep", DEMO) == 2
    assert capsys.readouterr().err.startswith("saemill: The sweep is empty: give one of sweep.archs, sweep.d_sae")


def test_the_table_lines_up_and_ends_with_the_page() -> None:
    rows = [
        {"member": "k 8", "state": "finished", "fvu": 0.12345, "l0": 8.0, "dead_fraction": 0.25, "training_seconds": 61.2},
        {"member": "k 16, long", "state": "diverged"},
    ]
    assert described(SweepResult("/r/activations/a", "/r/sweeps/b", rows, [])).splitlines() == [
        "member             fvu   l0   dead  seconds",
        "k 8             0.1235  8.0  25.0%       61",
        "k 16, long  not finite    -      -        -",
        "/r/sweeps/b/index.html",
    ]


@pytest.mark.ray
def test_a_sweep_of_the_toy_is_told_on_a_page_with_the_figures_of_single_runs(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    arguments = ["sweep", TOY, "--storage", str(tmp_path), *(part for text in SETTINGS for part in ("--set", text))]
    with watched_listening() as listening:
        assert exit_code(*arguments, "--json") == 0
    assert any("RayTrainWorker" in name for name in listening)
    assert set().union(*listening.values()) <= LOOPBACK
    found = json.loads(capfd.readouterr().out)
    assert Path(found["report"], "index.html").is_file()
    assert [row["member"] for row in found["saes"]] == ["topk, seed 0", "topk, seed 1", "l1, seed 0", "l1, seed 1"]
    assert [(pair["member"], pair["seed_a"], pair["seed_b"]) for pair in found["stability"]] == [
        ("topk", 0, 1),
        ("l1", 0, 1),
    ]
    assert all(0 <= pair["shared"] <= 1 and 0 < pair["mmcs"] <= 1.000001 for pair in found["stability"])

    whole = load_config(TOY, SETTINGS, str(tmp_path))
    config = run_of(whole, members(whole)[1])
    assert resolve(found["saes"][1]["sae"], found["report"]) == addresses(config).sae
    summary = run_pipeline(config, _only_score, until="score").summary
    assert {name: found["saes"][1][name] for name in ("fvu", "l0", "dead_fraction")} == {
        name: pytest.approx(summary[name], rel=1e-9) for name in ("fvu", "l0", "dead_fraction")
    }

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert exit_code(*arguments) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"{found['report']}/index.html"
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def _only_score(stage: Placed) -> None:
    assert stage.finished == (stage.name != "score")
    stage.run(silent)


def test_the_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    assert "sweep" in capsys.readouterr().out
    assert sweep.__doc__ is not None
