"""What the train stage gives to a training whose rows do not stay; Ray is left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import flows.rolling.roll as roll
import tasks.train.ray_train as ray_train
from flows.rolling.places import LakePlaces
from flows.rolling.stage import LakeStage
from tasks.errors import InputError
from tasks.harvest.config import HarvestConfig
from tasks.harvest.stage import HarvestStage
from tasks.lm.config import ModelConfig
from tasks.progress import Listener, silent
from tasks.sae.content import content_of
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest, write_manifest
from tasks.train.finish import close
from tasks.train.run_settings import RunSettings
from tasks.train.worker import Worker
from tests.composed import run_settings
from tests.train.conftest import make_run, pipeline

HARVEST = HarvestStage(settings=HarvestConfig(), model=ModelConfig(name="none"), context_length=8)


def train(
    settings: RunSettings, activations: str, out: str, listener: Listener, tokens: str | None = None, *_: object
) -> None:
    worker = Worker(settings, activations, out, OneProcess())
    close(settings, activations, out, worker.finish(worker.train()), {})


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LakeStage:
    """Begins from an SAE that is named by a relative path."""
    config, activations = make_run(tmp_path)
    train(run_settings(config), activations, f"{tmp_path}/saes/first", silent)
    monkeypatch.chdir(tmp_path)
    config, _ = make_run(tmp_path, tokens=320, init_from="saes/first")
    return LakeStage(settings=run_settings(config), harvest=HARVEST, activations=activations, tokens="none", shards="none")


def test_an_sae_of_rows_that_do_not_stay_names_the_one_that_it_began_from(
    warm: LakeStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_train, "train", train)
    out = f"{tmp_path}/saes/warm"
    warm.run(out, silent)
    assert (read_manifest(out) or {})["init_from"] == content_of(f"{tmp_path}/saes/first")


def test_so_does_one_of_windows_before_which_no_list_of_all_rows_is_left(
    warm: LakeStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[RunSettings] = []

    class Told:
        def __init__(self, lake: LakePlaces, settings: RunSettings, *_: Any) -> None:
            assert read_manifest(lake.activations(warm.activations)) is None
            given.append(settings)

        def run(self, listener: Listener) -> None:
            pass

    monkeypatch.setattr(roll, "Roll", Told)
    lake = LakePlaces(f"{tmp_path}/saes/warm")
    write_manifest(lake.activations(warm.activations), {})  # harvest.keep was none before
    warm._roll(lake, silent)
    assert given[0].init_content == content_of(f"{tmp_path}/saes/first")
    assert given[0].train.init_from == f"{tmp_path}/saes/first"


def test_a_window_of_more_bytes_than_may_be_stored_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    row, config = 4 * 6 + 4 + 8 + 4, pipeline(tmp_path)

    def check(n_bytes: int, window_tokens: int | None, most_tokens: int | None = None) -> None:
        settings = HarvestConfig(hooks=["source"], dtype="float32", shard_tokens=512, keep="window", window_bytes=n_bytes)
        train = config.train.model_copy(update={"window_tokens": window_tokens})
        harvest = replace(HARVEST, settings=settings, most_tokens=most_tokens)
        stage = LakeStage(settings=replace(run_settings(config), train=train), harvest=harvest)
        stage.check_inputs(f"{tmp_path}/saes/new", {"source": 6})

    check(2000 * row, 2000)
    check(512 * row, None)
    check(100 * row, 2000, most_tokens=100)
    with pytest.raises(InputError, match=r"a window of 2,000 tokens takes 80,000 bytes\. Lower train\.window_tokens"):
        check(2000 * row - 1, 2000)
    with pytest.raises(InputError, match=r"a window of 512 tokens"):
        check(512 * row - 1, 100)
