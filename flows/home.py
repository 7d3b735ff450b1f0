"""The folder of the Prefect server that ``saemill serve`` starts: its database, log and password, for its owner alone."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import InputError

HOME = "PREFECT_HOME"


def settle() -> None:
    """Name the folder in the environment as a whole path, once, so that Prefect and we read the same of it."""
    os.environ[HOME] = os.path.abspath(os.path.expanduser(os.environ.get(HOME) or _usual()))


def _usual() -> str:
    return os.path.abspath(".saemill/prefect")


def home() -> Path:
    """The folder, where ``settle`` was called."""
    return Path(os.environ[HOME])


def log() -> Path:
    """What the server writes."""
    return home() / "server.log"


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Tell in a sentence that the block cannot write into the folder.

    Raises:
        InputError: the folder cannot be made, entered or written, or is full.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The Prefect server keeps its files in {home()}, which cannot be written ({error.strerror or error}). Make it "
            f"a folder of your own with room in it, or name another with the environment variable {HOME}."
        ) from error


def prepare() -> None:
    """Make the folder, and close what an older version left open to others.

    Raises:
        OSError: it cannot be made, or is somebody else's.
    """
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    if str(home()) == _usual():
        home().chmod(0o700)  # mkdir leaves a folder that is there as it is
        return
    for file in (
        *home().glob("prefect.db*"),
        log(),
    ):  # of the user's own folder, only what the server writes is ours to close
        if file.is_file() and not file.is_symlink():
            file.chmod(0o600)
