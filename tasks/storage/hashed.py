"""What an input file holds, as its address has it: hashes of local files, entity tags of s3:// objects."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any

from tasks.errors import InputError
from tasks.storage.objects import s3_filesystem, s3_sentences, shown

_HASH_BLOCK = 8 * 2**20


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
        status = os.stat(name)
        return _sha256(name, status.st_size, status.st_mtime_ns)


def object_info(uri: str, setting: str) -> dict[str, Any]:
    """What S3 says of an object: size, ETag and more.

    Raises:
        InputError: there is no such object, or it may not be read.
    """
    with s3_sentences(f"head of {uri}"), readable(uri, setting):
        return dict(s3_filesystem().info(uri))


def content_identity(path: str, setting: str) -> str:
    """What a file holds, wherever it lies: SHA-256 of a local file, entity tag and size of an s3:// object.

    Raises:
        InputError: as ``file_sha256`` and ``object_info``.
    """
    if path.startswith("s3://"):
        info = object_info(path, setting)
        return f"s3-etag-{info['ETag']}-{info['size']}".replace('"', "")
    return f"sha256-{file_sha256(path, setting)}"


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


@functools.lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """Hash of a file's content; size and time of change are there to notice that a remembered hash is stale."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
