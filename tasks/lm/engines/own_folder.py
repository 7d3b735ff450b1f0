"""A folder for files that live for seconds, which a killed process leaves to the next one to remove."""

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/dev/shm")


class OwnFolder:
    """A folder of this process alone, in memory where the system has room for its files there.

    While it is there it is locked, and the kernel unlocks it when the process ends, however that comes. Whoever makes one of
    the same name removes those that nobody holds.
    """

    def __init__(self, name: str, n_bytes: int) -> None:
        self.path = _home(n_bytes) / f"saemill-{os.getuid()}-{name}" / secrets.token_hex(8)

    @contextlib.contextmanager
    def there(self) -> Iterator[None]:
        """While this is open there is a folder; then it is gone, and what is in it."""
        lock: int | None = None
        while lock is None:
            with contextlib.suppress(FileNotFoundError):  # the last beside it has just gone, and what held both with it
                lock = _made(self.path)
        try:
            yield
        finally:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(lock)
            with contextlib.suppress(OSError):  # there are others
                self.path.parent.rmdir()


def _home(n_bytes: int) -> Path:
    """A container may have no more than 64 MB of memory there; so much again is left to others."""
    roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= 2 * n_bytes
    return _MEMORY if roomy else Path(tempfile.gettempdir())


def _made(path: Path) -> int:
    """Make a folder; a handle that holds its lock.

    Raises:
        FileNotFoundError: the one above it was removed meanwhile.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    above = _lock(path.parent, wait=True)  # before it is locked it looks like a left one
    try:
        for folder in path.parent.iterdir():
            _remove_if_left(folder)
        path.mkdir(mode=0o700)
        return _lock(path, wait=True)
    finally:
        os.close(above)


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
