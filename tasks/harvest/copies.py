"""Files of own activations on a server, for libraries that open local files only; nothing of them outlasts its use."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tasks.storage.base import ObjectStore
from tasks.storage.foreign import reading
from tasks.storage.objects import object_at

# The longest header of a .npy that is read, and of most .safetensors the whole.
_FIRST_BYTES = 65_536 + 16
# What the library itself allows: https://github.com/huggingface/safetensors
_MAX_HEADER_BYTES = 100_000_000
_BLOCK_BYTES = 32 * 2**20


@contextlib.contextmanager
def copy_of(uri: str) -> Iterator[str]:
    """The path of a local file as it is, or of a copy of an object that goes when this is left.

    What has been mapped into memory until then stays readable: its bytes leave the disk with the last one that uses them.
    """
    store = object_at(uri)
    with _aside(store, uri) as local:
        if local != uri:
            with _getting(uri), open(local, "wb") as file:
                size = _size(store)
                for start in range(0, size, _BLOCK_BYTES):
                    file.write(store.get("", start, min(_BLOCK_BYTES, size - start)))
        yield local


@contextlib.contextmanager
def header_of(uri: str) -> Iterator[str]:
    """The path of a local file as it is, or of one as long as an object, of which the header alone was fetched.

    The rest is a hole that takes no room on the disk.
    """
    store = object_at(uri)
    with _aside(store, uri) as local:
        if local != uri:
            with _getting(uri):
                size = _size(store)
                Path(local).write_bytes(_first_bytes(store, uri, size))
                os.truncate(local, size)
        yield local


@contextlib.contextmanager
def _aside(store: ObjectStore, uri: str) -> Iterator[str]:
    if store.path() is not None:
        yield uri
        return
    with tempfile.TemporaryDirectory(prefix="saemill-") as folder:
        yield str(Path(folder, Path(uri).name))


def _getting(uri: str) -> contextlib.AbstractContextManager[None]:
    return reading(f"activations.source {uri}", "a file")


def _size(store: ObjectStore) -> int:
    info = store.head("")
    if info is None:
        raise FileNotFoundError(store.uri)
    return info.size


def _first_bytes(store: ObjectStore, uri: str, size: int) -> bytes:
    start = store.get("", 0, min(_FIRST_BYTES, size)) if size else b""
    if not uri.endswith(".safetensors"):
        return start
    length = min(size, 8 + min(int.from_bytes(start[:8], "little"), _MAX_HEADER_BYTES))
    return start if length <= len(start) else start + store.get("", len(start), length - len(start))
