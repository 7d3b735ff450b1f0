"""The real pipeline, from the command line, on the real model: on disk, on S3, and killed on the way."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import tasks.sae
from tasks.activations.reader import read_rows
from tasks.activations.schema import to_float32
from tasks.storage.artifacts import read_json
from tasks.storage.objects import open_store
from tests.kills.processes import kill_tree
from tests.patience import PATIENCE_S, files_of
from tests.turns import kills_a_whole_run

ROOT = Path(__file__).parents[1]
SMALL = {
    "text.max_tokens": 16_000,
    "text.context_length": 64,
    "harvest.hooks": "[model.layers.2]",
    "harvest.shard_tokens": 2_048,
    "harvest.actors": 1,
    "sae.d_sae": 256,
    "sae.k": 8,
    "train.tokens": 61_440,
    "train.batch_tokens": 256,
    "train.checkpoint_every_tokens": 5_120,
    "train.workers": 1,
    "score.splice_tokens": 256,
    "score.baseline_tokens": 512,
}

pytestmark = pytest.mark.ray


def command(storage: str, verb: str = "run") -> list[str]:
    overrides = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    return [sys.executable, "-m", "flows.cli", verb, "configs/demo.yaml", "--storage", storage, "--json", *overrides]


def run(storage: str) -> dict[str, Any]:
    done = subprocess.run(command(storage), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed run on local disk gives."""
    return run(str(tmp_path_factory.mktemp("finished")))


def test_a_run_gives_every_result_and_its_figures(finished: dict[str, Any]) -> None:
    summary = finished["summary"]
    assert 0 < summary["fvu"] < 0.7
    # The threshold keeps 8 of the few rows that are trained on several times; on rows never seen it keeps more.
    assert summary["l0"] == pytest.approx(8, rel=0.25)
    assert summary["fvu"] < summary["baselines"]["random_directions"]["fvu"]
    assert summary["ce_recovered"] > 0.3
    assert summary["tokens_per_second"]["harvest"] > 0
    assert summary["tokens_per_second"]["training"] > 0
    assert (Path(finished["report"]) / "index.html").is_file()


def test_the_loaded_sae_rebuilds_raw_activations_as_well_as_the_summary_says(finished: dict[str, Any]) -> None:
    sae = tasks.sae.load(finished["sae"])
    x = torch.from_numpy(to_float32(read_rows(finished["activations"], "model.layers.2", "eval"), "bfloat16"))
    with torch.no_grad():
        error = (x - sae.decode(sae.encode(x))).double().pow(2).sum()
    fvu = error / (x - x.mean(0)).double().pow(2).sum()
    assert fvu.item() == pytest.approx(finished["summary"]["fvu"], rel=0.02)


def test_a_second_run_recomputes_nothing_and_says_the_same(finished: dict[str, Any]) -> None:
    storage = str(Path(finished["report"]).parents[1])
    before = {path: path.stat().st_mtime_ns for path in Path(storage).rglob("*") if path.is_file()}
    assert run(storage) == finished
    assert {path: path.stat().st_mtime_ns for path in Path(storage).rglob("*") if path.is_file()} == before


@pytest.mark.s3
@kills_a_whole_run
def test_s3_gives_the_same_results_as_disk(finished: dict[str, Any], s3: str) -> None:
    there = run(f"{s3}/end-to-end")
    for stage in ("tokens", "activations", "sae", "scores", "report"):
        assert Path(there[stage]).name == Path(finished[stage]).name
    assert content(there["activations"], "manifest.json") == content(finished["activations"], "manifest.json")
    assert content(there["sae"], "sae.safetensors") == content(finished["sae"], "sae.safetensors")
    assert there["summary"]["fvu"] == finished["summary"]["fvu"]


@kills_a_whole_run
def test_killed_in_harvest_and_in_training_it_goes_on_to_the_same_results(finished: dict[str, Any], tmp_path: Path) -> None:
    storage = str(tmp_path)
    in_harvest = kill_when(storage, lambda: len(files_of(tmp_path, "shards/*/commits/*.json")) >= 2)
    assert not list(tmp_path.glob("activations/*/manifest.json")), "killed too late to show anything"
    kept = {path: path.read_bytes() for path in tmp_path.glob("shards/*/commits/*.json")}
    in_training = kill_when(storage, lambda: files_of(tmp_path, "saes/*/checkpoints/*.safetensors"))
    assert not list(tmp_path.glob("saes/*/manifest.json")), "killed too late to show anything"
    again = run(storage)
    assert in_harvest == in_training == -signal.SIGKILL
    assert {path: path.read_bytes() for path in kept} == kept, "a committed shard was harvested twice"
    assert content(again["activations"], "manifest.json") == content(finished["activations"], "manifest.json")
    assert content(again["sae"], "sae.safetensors") == content(finished["sae"], "sae.safetensors")
    assert content(again["sae"], "curve.parquet") == content(finished["sae"], "curve.parquet")


def test_status_tells_how_far_a_finished_run_is(finished: dict[str, Any]) -> None:
    storage = str(Path(finished["report"]).parents[1])
    done = subprocess.run(command(storage, "status"), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert finished["sae"] in done.stdout


def content(uri: str, key: str) -> bytes:
    return open_store(uri).get(key)


def kill_when(storage: str, ready: Callable[[], object]) -> int:
    """Start a run, kill -9 all of its processes as soon as ``ready`` holds, and return its exit code."""
    with tempfile.TemporaryFile("w+") as said:
        process = psutil.Popen(command(storage), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    pytest.fail(f"the run never came so far: {said.read()[-3000:]}")
                time.sleep(0.02)
        finally:
            kill_tree(process)
        return int(process.wait())


def test_run_json_tells_the_timings(finished: dict[str, Any]) -> None:
    for stage in ("activations", "sae"):
        timings = read_json(finished[stage], "run.json")
        assert timings is not None
        assert timings["seconds"] > 0
