"""How long tests wait."""

import os
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

PATIENCE_S = 900.0
"""For what takes seconds on a quiet machine: a busy one makes tests slow, not red, and what hangs ends some time."""


def until(ready: Callable[[], object], what: str, said: Callable[[], str] = str) -> None:
    """Wait for a condition; where it never comes, what it was and what ``said`` tells of it are the error."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, f"it never came so far: {what} {said()}"
        time.sleep(0.002)


def files_of(folder: Path, pattern: str) -> list[Path]:
    """Files in a folder whose paths in it match, a star for slashes too, while others write and remove files and folders.

    ``Path.glob`` fails where a folder that it has come to is removed meanwhile (Python 3.11).
    """
    found = [Path(where, name) for where, _, names in os.walk(folder) for name in names]
    return [path for path in found if fnmatch(path.relative_to(folder).as_posix(), pattern)]
