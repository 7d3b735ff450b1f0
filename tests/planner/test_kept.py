"""What plans keep: accounts of runs below the storage, and measurements in the user's cache folder."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.planner.accounts import read_accounts, write_account
from tasks.planner.measured import cache_folder, keep, keep_measured, kept, kept_measured
from tests.planner.demo import ACCOUNT
from tests.planner.test_speed import MEASURED


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_account_is_read_as_it_was_written(tmp_path: Path) -> None:
    uri = write_account(str(tmp_path), ACCOUNT)
    assert Path(uri).parent == tmp_path / "accounts"
    assert read_accounts(str(tmp_path)) == [ACCOUNT]


def test_the_newest_account_comes_first_and_none_replaces_another(tmp_path: Path) -> None:
    for day in (1, 2, 2, 3):
        write_account(str(tmp_path), replace(ACCOUNT, name=f"day-{day}"))
    assert [account.name for account in read_accounts(str(tmp_path))] == ["day-3", "day-2", "day-2", "day-1"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 1}', b'{"version": 99}', b'{"version": 1, "stages": 3}'])
def test_an_account_that_cannot_be_read_is_passed_over(tmp_path: Path, content: bytes) -> None:
    write_account(str(tmp_path), ACCOUNT)
    (tmp_path / "accounts" / "99991231T235959-00000000.json").write_bytes(content)
    assert read_accounts(str(tmp_path)) == [ACCOUNT]


def test_a_storage_without_runs_has_no_accounts(tmp_path: Path) -> None:
    assert read_accounts(str(tmp_path / "absent")) == []
    assert not (tmp_path / "absent").exists()


def test_a_measurement_is_found_by_all_that_it_depends_on() -> None:
    keep_measured({"machine": "a", "hooks": ["x"]}, MEASURED)
    assert kept_measured({"hooks": ["x"], "machine": "a"}) == MEASURED
    assert kept_measured({"machine": "b", "hooks": ["x"]}) is None


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"of": "another version"}'])
def test_a_broken_cache_is_an_empty_one(cache: Path, content: bytes) -> None:
    keep_measured({"machine": "a"}, MEASURED)
    (file,) = (cache / "saemill" / "probe").iterdir()
    file.write_bytes(content)
    assert kept_measured({"machine": "a"}) is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep("count", {"a": 1}, {"b": 2})
    assert kept("count", {"a": 1}) is None


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification has such values ignored
    assert cache_folder() == Path(os.path.expanduser("~")) / ".cache" / "saemill"


def test_what_is_kept_is_json_for_anyone_to_read(cache: Path) -> None:
    keep("count", {"tokens": "0123"}, {"corpus": {"train_sequences": 3}})
    (file,) = (cache / "saemill" / "count").iterdir()
    assert json.loads(file.read_text()) == {"corpus": {"train_sequences": 3}}
