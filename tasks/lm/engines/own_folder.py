"""A folder for files that live for a second, which a killed process leaves to the next one to remove."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path

_MEMORY = Path("/dev/shm")


class OwnFolder:
    """A folder of this process alone, in memory where the system has room for its files there.

    It is locked, and the kernel unlocks it when the process ends, however that comes. Whoever makes another one of the same
    name removes those that nobody holds.
    """

    def __init__(self, name: str, n_bytes: int) -> None:
        around = _home(n_bytes) / f"saemill-{os.getuid()}-{name}"
        lock: int | None = None
        while lock is None:
            with contextlib.suppress(FileNotFoundError):  # the last that was in there has just gone, and ``around`` with it
                self.path, lock = _made(around)
        self._finalize = weakref.finalize(self, _end, self.path, lock)  # at the interpreter's end at the latest

    def clear(self) -> None:
        """Remove what is in it."""
        for path in self.path.iterdir():
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove it."""
        self._finalize()


def _made(around: Path) -> tuple[Path, int]:
    """A new folder within ``around``, and the handle that holds its lock.

    Raises:
        FileNotFoundError: ``around`` was removed meanwhile.
    """
    around.mkdir(mode=0o700, exist_ok=True)
    handle = _lock(around, wait=True)  # between the making of a folder and its lock it would look like a left one
    try:
        for folder in around.iterdir():
            _remove_if_left(folder)
        path = Path(tempfile.mkdtemp(dir=around))
        return path, _lock(path, wait=True)
    finally:
        os.close(handle)


def _home(n_bytes: int) -> Path:
    """A container may have no more than 64 MB of memory there; so much again is left to others."""
    roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= 2 * n_bytes
    return _MEMORY if roomy else Path(tempfile.gettempdir())


def _lock(folder: Path, *, wait: bool) -> int:
    """A handle that holds the lock of a folder until it is closed.

    Raises:
        BlockingIOError: another process has it, and it is not to be waited for.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        lock = _lock(folder, wait=False)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _end(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
    with contextlib.suppress(OSError):  # others are there
        folder.parent.rmdir()
