"""Files of own activations that lie on S3, for libraries that open local files only; nothing of them outlasts its use."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tasks.storage.foreign import reading
from tasks.storage.objects import s3_filesystem, s3_sentences

# The longest header of a .npy that is read, and of most .safetensors the whole.
_FIRST_BYTES = 65_536 + 16
# What the library itself allows: https://github.com/huggingface/safetensors
_MAX_HEADER_BYTES = 100_000_000


@contextlib.contextmanager
def copy_of(uri: str) -> Iterator[str]:
    """The path of a local file as it is, or of a copy of an s3:// object that goes when this is left.

    What has been mapped into memory until then stays readable: its bytes leave the disk with the last one that uses them.
    """
    with _aside(uri) as local:
        if local != uri:
            with _getting(uri):
                s3_filesystem().get_file(uri, local)
        yield local


@contextlib.contextmanager
def header_of(uri: str) -> Iterator[str]:
    """The same, but of an s3:// object the header alone is fetched; the rest is a hole that takes no room on the disk."""
    with _aside(uri) as local:
        if local != uri:
            with _getting(uri):
                Path(local).write_bytes(_first_bytes(uri))
                os.truncate(local, int(s3_filesystem().info(uri)["size"]))
        yield local


@contextlib.contextmanager
def _aside(uri: str) -> Iterator[str]:
    if not uri.startswith("s3://"):
        yield uri
        return
    with tempfile.TemporaryDirectory(prefix="saemill-") as folder:
        yield str(Path(folder, Path(uri).name))


@contextlib.contextmanager
def _getting(uri: str) -> Iterator[None]:
    with s3_sentences(f"get of {uri}"), reading(f"activations.source {uri}", "a file"):
        yield


def _first_bytes(uri: str) -> bytes:
    start = bytes(s3_filesystem().cat_file(uri, start=0, end=_FIRST_BYTES))
    if not uri.endswith(".safetensors"):
        return start
    length = 8 + min(int.from_bytes(start[:8], "little"), _MAX_HEADER_BYTES)
    if length <= len(start):
        return start
    return start + bytes(s3_filesystem().cat_file(uri, start=len(start), end=length))
