"""Hashes of files of this machine."""

import functools
import hashlib
import os

_HASH_BLOCK = 8 * 2**20


def sha256_of(path: str) -> str:
    """SHA-256 of a file's content, read once per process as long as the file stays the same.

    Raises:
        OSError: the file is not there, went away, or may not be read.
    """
    status = os.stat(path)
    return _sha256(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """Hash of a file's content; size and time of change are there to notice that a remembered hash is stale."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
