"""saemill plan, the line before a run and the account after it; on activations of one's own, without Ray."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.addresses import Placed, addresses, placed
from flows.cli import main
from flows.config import PipelineConfig, load_config, parse_config
from flows.pipeline import run_pipeline
from flows.plan import planned
from flows.planning import corpus_of, counted_by, keys
from flows.run_size import guessed, run_size
from tasks.activations import disk_space
from tasks.activations.reader import read_rows
from tasks.errors import InputError
from tasks.planner.accounts import read_accounts
from tasks.planner.forecast import UNPRICED
from tasks.planner.measured import keep
from tasks.planner.sizes import CorpusSize
from tasks.planner.words import size as size_in_words
from tasks.progress import silent
from tasks.storage.artifacts import read_json, to_json, write_manifest
from tasks.storage.objects import open_store

ROOT = Path(__file__).parents[2]
BYTES = 1000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own(tmp_path: Path) -> PipelineConfig:
    return parse_config(settings(tmp_path))


def settings(folder: Path, **train: int) -> dict[str, Any]:
    np.save(folder / "rows.npy", np.eye(200, 4, dtype=np.float32))
    sae = {"d_sae": 16, "k": 2}
    lengths = {"tokens": 1600, "batch_tokens": 16, "workers": 1} | train
    activations = {"source": str(folder / "rows.npy")}
    return {"name": "own", "storage": str(folder / "runs"), "activations": activations, "sae": sae, "train": lengths}


def do(stage: Placed) -> None:
    """Harvest for real; in place of other stages' work, store ``BYTES``, and say that no second of training was steps."""
    if stage.finished:
        return
    if stage.name == "harvest":
        stage.run(silent)
        return
    timings = to_json({"seconds": 1.0, "training_seconds": 0.0})
    open_store(stage.out).put("run.json", timings)
    open_store(stage.out).put("data", bytes(BYTES - len(timings) - len(to_json({}))))
    write_manifest(stage.out, {})


def stored(config: PipelineConfig) -> int:
    files = (path for path in Path(config.storage).rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if path.parent.name != "accounts")


def told(config: PipelineConfig, caplog: pytest.LogCaptureFixture, until: str = "report") -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "tasks.pipeline"):
        run_pipeline(config, do, until)
    return [message for message in caplog.messages if message.startswith(("plan", "account"))]


def test_a_run_says_before_it_what_it_will_take_and_after_it_what_it_took(
    own: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = told(own, caplog)
    assert before.startswith("plan: time unknown (saemill plan measures it), ")
    assert "; free " in before
    assert after.startswith("planned ")
    (account,) = read_accounts(own.storage)
    assert account.bytes == stored(own) > 3 * BYTES + 200 * 4 * 4
    assert f" s and {size_in_words(account.bytes, 3)} (" in after
    assert set(account.stages) == {"harvest", "training", "scoring", "report"}
    assert account.stages["training"].fixed == account.stages["training"].seconds, "no second of it was a step"


def test_a_run_that_finds_everything_says_nothing_and_writes_nothing(
    own: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    told(own, caplog)
    files = {path: path.stat().st_mtime_ns for path in Path(own.storage).rglob("*")}
    assert told(own, caplog) == []
    assert {path: path.stat().st_mtime_ns for path in Path(own.storage).rglob("*")} == files


def test_the_next_run_is_foretold_by_the_one_before(
    tmp_path: Path, own: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    told(own, caplog)
    longer = parse_config(settings(tmp_path, tokens=3200))
    before, after = told(longer, caplog)
    assert before.startswith("plan: about ")
    assert " seconds, " in before
    assert after.startswith("planned ")
    assert "3.00 kB" in after.rpartition("took")[2], "the harvest was there"
    newest, oldest = read_accounts(own.storage)
    assert newest.planned_seconds is not None
    assert set(newest.stages) == {"training", "scoring", "report"}
    assert oldest.planned_seconds is None


def test_a_run_that_was_stopped_leaves_no_account(own: PipelineConfig) -> None:
    def killed(stage: Placed) -> None:
        if stage.name == "score":
            raise KeyboardInterrupt
        do(stage)

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(own, killed)
    assert read_accounts(own.storage) == []
    run_pipeline(own, do)
    (account,) = read_accounts(own.storage)
    assert set(account.stages) == {"scoring", "report"}, "of what was done before, nothing is told"


def test_an_account_that_cannot_be_kept_is_no_reason_to_fail(own: PipelineConfig, caplog: pytest.LogCaptureFixture) -> None:
    Path(own.storage).mkdir()
    Path(own.storage, "accounts").touch()
    run_pipeline(own, do)
    assert any("the account of this run is not kept" in message for message in caplog.messages)


def test_a_disk_that_would_be_full_is_refused_before_anything_is_written(
    own: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda uri: 9999)
    with pytest.raises(InputError, match=r"This run stores .* \(activations .*, SAE and .*\), but only 9\.8 KiB are free"):
        run_pipeline(own, do)
    assert not Path(own.storage).exists()


def test_a_text_of_about_so_many_tokens_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("word " * 10_000)
    text = {"source": str(tmp_path / "text.txt")}
    found = guessed(parse_config({"text": text}))
    assert found is not None
    assert (found.sequences, found.is_bound) == (50_000 // 4 // 256, False)
    bound = guessed(parse_config({"text": text | {"max_tokens": 2560}}))
    assert bound is not None
    assert (bound.sequences, bound.eval_sequences, bound.is_bound) == (10, 1, True)


def test_rows_are_those_that_the_harvest_has_stored(own: PipelineConfig) -> None:
    at = addresses(own)
    size = run_size(own, at, {"source": 4}, None)
    assert (size.rows.train, size.rows.held_out, size.scoring.rows) == (180, 20, 20), "so many in the mean"
    do(next(stage for stage in placed(own, at) if stage.name == "harvest"))
    found = run_size(own, at, {"source": 4}, None).rows
    assert found.train + found.held_out == 200
    assert found.held_out == len(read_rows(at.activations, "source", "eval")) != 20


def test_speeds_are_told_apart_by_what_changes_them(own: PipelineConfig, tmp_path: Path) -> None:
    two = parse_config(settings(tmp_path, workers=2))
    assert keys(own)["training"] != keys(two)["training"]
    assert {**keys(own), "training": 0} == {**keys(two), "training": 0}


def test_without_a_probe_only_what_is_known_is_told(own: PipelineConfig) -> None:
    found = planned(own, measure=False, prices=UNPRICED)
    assert found.seconds is None
    assert found.bytes > 200 * 4 * 4
    assert not Path(own.storage).exists()


def test_a_cards_figures_are_told_with_a_price(own: PipelineConfig) -> None:
    config = own.model_copy(update={"train": own.train.model_copy(update={"price_per_hour": 2.5})})
    found = planned(config, card="H200", prices=UNPRICED)
    assert found.cards == 1
    assert found.seconds is not None
    assert found.price == pytest.approx(found.seconds / 3600 * 2.5)
    assert all(stage["from"] for stage in found.to_json()["stages"].values())
    with pytest.raises(InputError, match=r"--card is 'B200', of which nothing is known; known are H200, H100\."):
        planned(own, card="B200", prices=UNPRICED)


def test_a_count_is_used_as_long_as_the_text_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("word " * 10_000)
    config = load_config(ROOT / "configs/demo.yaml", [f"text.source={tmp_path / 'text.txt'}", "text.title_columns=[]"])
    tokens = addresses(config).tokens
    assert tokens is not None
    corpus = {"train_sequences": 7, "eval_sequences": 2}
    keep("count", counted_by(tokens), {"corpus": corpus})
    assert corpus_of(config, addresses(config)) == CorpusSize(**corpus)
    (tmp_path / "text.txt").write_text("other " * 10_000)
    found = corpus_of(config, addresses(config))
    assert found is not None
    assert found.how == "about, by the sizes of the files"


def test_the_command_measures_this_machine_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.cli", "plan", "configs/toy.yaml", "--storage", str(tmp_path / "runs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "check": True}
    found = json.loads(subprocess.run([*command, "--json"], **run).stdout)  # type: ignore[call-overload]
    assert found["tokens"] == 8
    assert found["hours"] > 0
    assert found["price"] is None
    assert "a probe of this machine with 1 process" in found["stages"]["training"]["from"]
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []
    (measured,) = (tmp_path / "cache/saemill/probe").iterdir()
    assert read_json(str(measured.parent), measured.name) is not None


def test_wrong_options_end_in_a_sentence(own: PipelineConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ((["--card", "A100"], "--card is 'A100'"), (["--price-per-hour", "-1"], "greater than or equal to 0"))
    for options, sentence in wrong:
        with pytest.raises(SystemExit) as stopped:
            main(["plan", str(ROOT / "configs/toy.yaml"), "--storage", str(tmp_path / "runs"), *options])
        assert stopped.value.code == 2
        assert sentence in capsys.readouterr().err
