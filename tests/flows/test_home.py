"""The folder of `saemill serve`'s Prefect server: for its owner alone, and what is wrong with it is said in a sentence."""

import errno
import os
import stat
from pathlib import Path

import pytest

from flows import home, password
from flows.cli import main
from tasks.errors import InputError
from tests.flows.conftest import TOY


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_usual_folder_is_closed_where_an_older_version_left_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(home.HOME, "")
    Path(".saemill/prefect").mkdir(mode=0o755, parents=True)
    home.settle()
    home.prepare()
    assert home.home() == tmp_path / ".saemill/prefect"
    assert mode(home.home()) == 0o700


def test_of_a_folder_of_the_users_own_only_the_servers_files_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(home.HOME, "~/mine")
    (folder := tmp_path / "mine").mkdir(mode=0o755)
    for name in ("prefect.db", "prefect.db-wal", "server.log", "profiles.toml"):
        (folder / name).touch(0o644)
    home.settle()
    home.prepare()
    assert os.environ[home.HOME] == str(folder), "as Prefect reads it"
    assert password.file() == folder / "password"
    closed = {path.name for path in folder.iterdir() if mode(path) == 0o600}
    assert closed == {"prefect.db", "prefect.db-wal", "server.log"}
    assert mode(folder) == 0o755


@pytest.mark.parametrize("below", ["", "x/y"])
def test_a_file_in_the_folders_place_is_told_in_a_sentence(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "file").touch()
    monkeypatch.setenv(home.HOME, str(file / below))
    for name in ("PREFECT_API_URL", password.CLIENT, "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")  # `serve` sets them; this has them put back
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--config", TOY, "--nightly", TOY, "--port", "14999"])
    (sentence,) = capfd.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert f"keeps its files in {file}" in sentence
    assert "PREFECT_HOME" in sentence


def test_a_full_disk_leaves_no_half_of_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv(home.HOME, str(tmp_path))
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left"), home.writing():
        password.keep("saemill:x", tmp_path / "password")
    assert list(tmp_path.iterdir()) == []
