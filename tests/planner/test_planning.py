"""What the planning of runs does with texts, caches and accounts as it finds them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import pipeline, plan, planning
from flows.addresses import Placed, addresses, placed
from flows.config import PipelineConfig, parse_config
from flows.pipeline import Result, run_pipeline
from flows.planning import bytes_left, corpus_of, counted_by, kept_count, keys
from flows.rolling.places import LakePlaces
from flows.run_size import run_size
from flows.watched import Watched
from tasks.activations.manifest import SAMPLED
from tasks.errors import InputError
from tasks.planner.accounts import read_accounts
from tasks.planner.measured import keep
from tasks.planner.needs import PASSING, STAGES, needs
from tasks.planner.processors import CPU
from tasks.planner.sizes import CorpusSize
from tasks.progress import silent
from tasks.storage.artifacts import write_manifest
from tasks.storage.objects import open_store
from tests.planner.demo import DEMO, MODEL
from tests.planner.test_forecast import forecast
from tests.planner.test_speed import MEASURED


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def of_text(folder: Path, **changed: Any) -> PipelineConfig:
    """A run on a text whose only file is a damaged one."""
    (folder / "text.parquet").write_bytes(b"no footer")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    settings = {
        "name": "text",
        "storage": str(folder / "runs"),
        "text": {"source": str(folder / "text.parquet"), "context_length": 16},
        "model": {"name": str(folder / "model"), "dtype": "float32"},
        "harvest": {"hooks": ["model.layers.0"]},
        "sae": {"d_sae": 16, "k": 2},
        "train": {"tokens": 1600, "batch_tokens": 16, "workers": 1, "precision": "fp32"},
    }
    for section, more in changed.items():
        settings[section] = settings[section] | more
    return parse_config(settings)


def test_a_text_whose_tokens_are_there_is_not_looked_at(tmp_path: Path) -> None:
    config = of_text(tmp_path)
    at = addresses(config)
    with pytest.raises(InputError, match=r"text\.parquet"):
        corpus_of(config, at)
    assert at.tokens is not None
    write_manifest(at.tokens, {"n_sequences": {"train": 9, "eval": 1}})
    assert corpus_of(config, at) is None


def test_an_account_that_cannot_be_made_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "rows.npy", np.eye(200, 4, dtype=np.float32))
    config = parse_config(
        {
            "storage": str(tmp_path / "runs"),
            "activations": {"source": str(tmp_path / "rows.npy")},
            "sae": {"d_sae": 16, "k": 2},
            "train": {"tokens": 1600, "batch_tokens": 16, "workers": 1},
        }
    )

    def do(stage: Placed) -> None:
        if stage.name == "harvest":
            stage.run(silent)
        else:
            write_manifest(stage.out, {})
        open_store(stage.out).put("run.json", b"damaged")

    monkeypatch.setattr(pipeline, "result", lambda *_: Result({}, {}))
    monkeypatch.setattr(pipeline, "registered", lambda *_: "name@1")
    assert run_pipeline(config, do).version == "name@1"
    assert any("the account of this run is not kept" in message for message in caplog.messages)
    assert read_accounts(config.storage) == []


@pytest.mark.parametrize("content", [{}, {"corpus": 3}, {"corpus": {"of": "another version"}}])
def test_a_count_of_another_form_is_none(tmp_path: Path, content: dict[str, Any]) -> None:
    at = addresses(of_text(tmp_path))
    assert at.tokens is not None
    keep("count", counted_by(at.tokens), content)
    assert kept_count(at.tokens) is None
    assert plan._with_text(MEASURED, at) == MEASURED


def test_work_of_a_model_of_another_form_is_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = of_text(tmp_path)
    monkeypatch.setattr(planning, "kept", lambda kind, settings: {"of": "another version"} if kind == "model" else None)
    monkeypatch.setattr(planning, "model_size", lambda *_: MODEL)
    assert planning._model_to(config, ("model.layers.0",)) == MODEL


def test_a_begin_without_one_whole_sequence_tells_nothing_of_the_rest(tmp_path: Path) -> None:
    begin = CorpusSize(train_sequences=0, eval_sequences=0)
    assert plan._whole(of_text(tmp_path), begin, 10, 10**9).sequences == 0
    assert plan._whole(of_text(tmp_path, text={"max_tokens": 64}), begin, 10, None).sequences == 0


@pytest.mark.parametrize("how", [None, InputError("no such hook")])
def test_that_a_models_work_cannot_be_counted_is_found_once_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: InputError | None
) -> None:
    config, tries = of_text(tmp_path), [0]

    def count(*_: object) -> None:
        tries[0] += 1
        if how is not None:
            raise how

    monkeypatch.setattr(planning, "model_size", count)
    for day_s, tried in ((86_400.0, 1), (86_400.0, 1), (0.0, 2)):
        monkeypatch.setattr(planning, "_UNKNOWN_S", day_s)
        assert planning._model_to(config, ("model.layers.0",)) is None
        assert tries == [tried]


KEPT = ({"keep": "all"}, {"keep": "none"}, {"keep": "window", "window_bytes": 2**20})


def test_speeds_where_rows_stay_tell_nothing_of_those_where_they_do_not(tmp_path: Path) -> None:
    found = [keys(of_text(tmp_path, harvest=kept)) for kept in KEPT]
    found.append(keys(of_text(tmp_path, train={"window_tokens": 32_768})))
    assert len({str(each["training"]) for each in found}) == 4
    assert len({str(each["harvest"]) for each in found}) == 3
    assert len({str(each["scoring"]) for each in found}) == 1


@pytest.mark.parametrize("kept", KEPT, ids=["all", "none", "window"])
def test_a_run_whose_rows_do_not_stay_tells_no_speed_of_harvest_and_training(tmp_path: Path, kept: dict[str, Any]) -> None:
    config = of_text(tmp_path, harvest=kept, train={"window_tokens": 32_768})
    at = addresses(config)
    done = {STAGES[stage.name]: stage for stage in placed(config, at)}
    watched = Watched(config, at, DEMO, forecast(), 0.0, seconds=dict.fromkeys(done, 1.0))
    spoilt = {"harvest", "training"} if kept["keep"] != "all" else set()
    assert set(watched._whole(done, dict.fromkeys(done, 0))) == set(done) - spoilt


def test_a_lake_is_not_forgotten_once_its_sample_is_harvested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.run_size.require_hooks", lambda uri, manifest: manifest["hooks"])
    config = of_text(tmp_path, harvest={"keep": "none"})
    at, hook = addresses(config), config.harvest.hooks[0]
    corpus = CorpusSize(train_sequences=10_000, eval_sequences=100)
    before = run_size(config, at, {hook: 64}, corpus)
    some = {"train": {"rows": 32_768}, "eval": {"rows": 1_490}}
    sample = {"train": {"kept": 1, "of": 5}}
    write_manifest(at.activations, {"hooks": {hook: {"splits": some}}, SAMPLED: sample})
    after = run_size(config, at, {hook: 64}, corpus)
    assert after.rows == replace(before.rows, held_out=1_490), "which stay, and are counted there"
    left = bytes_left(config, at, after)
    rows = needs(after, CPU)["training"].stored[PASSING]
    assert left["SAE and checkpoints and rows until then"] > rows > 64 * 2 * 100_000
    store = open_store(f"{LakePlaces(at.sae).uri}/shards")
    store.put("some", bytes(rows))
    assert left["SAE and checkpoints and rows until then"] - rows == sum(
        n_bytes for name, n_bytes in bytes_left(config, at, after).items() if name.startswith("SAE")
    ), "what is there already is not stored again"
    about = replace(after, corpus=replace(corpus, is_bound=False))
    assert "SAE and checkpoints" in bytes_left(config, at, about)
