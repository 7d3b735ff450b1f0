"""The files of a corpus: found by path, glob, folder or s3:// URI, identified by content, opened decompressed."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.errors import InputError
from tasks.storage.foreign import open_stream
from tasks.storage.hashed import content_identity
from tasks.storage.listing import exists, find
from tasks.storage.objects import is_local, object_at
from tasks.storage.paths import shown

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt")
_CODECS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file of a corpus."""

    uri: str
    """Absolute path or s3:// URI."""
    name: str
    """Path below what all files of the corpus have in common."""

    @property
    def kind(self) -> str:
        """Suffix without compression: '.parquet', '.jsonl' or '.txt'."""
        stem, suffix = os.path.splitext(self.uri)
        return os.path.splitext(stem)[1] if suffix in _CODECS else suffix

    def open(self) -> Any:
        """The content as a pyarrow stream, decompressed."""
        if self.kind == ".parquet":
            return open_stream(self.uri)
        stream = object_at(self.uri).open_in_order("")
        codec = _CODECS.get(os.path.splitext(self.uri)[1])
        return pa.CompressedInputStream(stream, codec) if codec else stream

    def identity(self) -> str:
        """SHA-256 of a local file's content; ETag and size of an s3:// object.

        Raises:
            InputError: the file is not there, or may not be read.
        """
        return content_identity(self.uri, "text.source").removeprefix("sha256-")


def find_files(source: str) -> list[CorpusFile]:
    """The files that a path, glob, folder or s3:// URI stands for, by name, as ``tasks.storage.listing`` has it.

    Raises:
        InputError: there is no such file, nothing matches, or a file is of an unknown kind.
    """
    found = find(source, SUFFIXES)
    if not found:
        raise InputError(f"text.source: {_nothing(source)}.")
    unknown = next((uri for uri in found if _suffix(uri) is None), None)
    if unknown is not None:
        raise InputError(f"text.source: {unknown} is of an unknown kind; its name must end in {', '.join(SUFFIXES)}.")
    return named(found)


def named(uris: Sequence[str]) -> list[CorpusFile]:
    """Files, named by what is not common to the paths of all of them, in order of their paths."""
    return [CorpusFile(uri, name) for uri, name in sorted(zip(uris, _names(uris), strict=True))]


def looks_like_files(source: str) -> bool:
    """Whether a source means files rather than the name of a dataset on the Hugging Face hub."""
    here = is_local(source) and exists(source)
    written_so = not is_local(source) or source.startswith(("/", "./", "../", "~")) or glob.has_magic(source)
    return here or written_so or _suffix(source) is not None or source.count("/") > 1


def _nothing(source: str) -> str:
    if glob.has_magic(source):
        return f"no file matches {source}"
    if exists(source):
        return f"folder {source} holds no file whose name ends in {', '.join(SUFFIXES)}"
    return f"no such file or folder: {shown(source)}"


def _suffix(uri: str) -> str | None:
    return next((suffix for suffix in SUFFIXES if uri.endswith(suffix)), None)


def _names(uris: Sequence[str]) -> list[str]:
    common = os.path.commonpath([os.path.dirname(uri) for uri in uris])
    return [os.path.relpath(uri, common) for uri in uris]
