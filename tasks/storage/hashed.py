"""What an input file holds, as its address has it: hashes of local files, entity tags of objects."""

import contextlib
import os
from collections.abc import Iterator

from tasks.errors import InputError
from tasks.storage.content import sha256_of
from tasks.storage.objects import object_at
from tasks.storage.paths import shown


def file_sha256(path: str | os.PathLike[str], setting: str) -> str:
    """SHA-256 of a local file's content, read once per process as long as the file stays the same.

    Args:
        path: of the file.
        setting: that names it, for the error.

    Raises:
        InputError: the file is not there, went away, or may not be read.
    """
    name = os.fspath(path)
    with readable(name, setting):
        return sha256_of(name)


def content_identity(uri: str, setting: str) -> str:
    """What a file holds, wherever it lies: SHA-256 of a local file, entity tag and size of an s3:// object.

    Raises:
        InputError: the file is not there, went away, or may not be read.
    """
    with readable(uri, setting):
        return object_at(uri).identity("")


@contextlib.contextmanager
def readable(path: str, setting: str) -> Iterator[None]:
    """Tell in a sentence that a file which a setting stands for is not there, or may not be read.

    Raises:
        InputError: it is so.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{setting}: there is no file {shown(path)}, or it leads to one that is not there.") from None
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"{setting}: {shown(path)} cannot be read: {reason}.") from None
