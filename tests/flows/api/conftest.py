"""Python processes of a user's: in a folder of their own, with saemill installed and nothing else known."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE_S

ON_PATH = ROOT / "flows/api/on_path"
EDITABLE = (ON_PATH, ROOT)
"""What an editable installation puts on Python's path."""


def python(folder: Path, *arguments: str, path: Sequence[Path] = EDITABLE) -> str:
    """What Python prints, started in a folder; ``path`` is what an installation puts on Python's path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def _empty(folder: Path) -> None:
    pass


def _file(folder: Path) -> None:
    (folder / "tasks.py").write_text("def clean():\n    return 'mine'\n")


def _package(folder: Path) -> None:
    (folder / "tasks").mkdir()
    (folder / "tasks/__init__.py").write_text("def clean():\n    return 'mine'\n")
    (folder / "tasks/mine.py").write_text("")


def _plain_folder(folder: Path) -> None:
    (folder / "tasks").mkdir()
    (folder / "tasks/mine.py").write_text("def clean():\n    return 'mine'\n")


FOLDERS = {"empty": _empty, "tasks.py": _file, "package": _package, "plain folder": _plain_folder}


@pytest.fixture
def folder_with(tmp_path: Path) -> Callable[[str], Path]:
    """Make a user's folder that holds something called tasks."""

    def made(what: str) -> Path:
        folder = tmp_path / "project"
        folder.mkdir()
        FOLDERS[what](folder)
        return folder

    return made
