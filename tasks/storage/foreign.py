"""Files that somebody else wrote: whatever stands in them ends in a sentence, and memory does not follow what they say.

pyarrow reads a row group whole where it may (15 kB of zeros took 4.6 GB so, a group of a million rows of 4,096 float32
takes 16): here column chunks are read as streams and decoded some rows at a time. Of 150,000 x 4,096 float32 in one group,
512 rows at a time took 78 MiB more than the interpreter; 4,096 at a time took 489, mostly for the levels of list columns.
"""

import contextlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import InputError
from tasks.storage.faults import FAULTS, reason_of
from tasks.storage.objects import object_at
from tasks.storage.page_sizes import chunks_of

_BUFFER_BYTES = 2**20
_REMOTE_BUFFER_BYTES = 8 * 2**20


@contextlib.contextmanager
def reading(what: str, kind: str) -> Iterator[None]:
    """Name the file in whatever goes wrong while it is parsed; nothing else should be done meanwhile.

    Args:
        what: setting and path, such as "activations.source rows.npy".
        kind: what it should have been, such as ".npy".

    Raises:
        InputError: the file is missing, damaged, or asks for more memory than there is.
    """
    try:
        yield
    except FAULTS as error:
        raise InputError(f"{what} cannot be read as {kind}: {reason_of(error)}.") from None


def open_parquet(uri: str) -> pq.ParquetFile:
    """A Parquet file whose columns are read as streams, wherever it lies; CRCs are compared where it has them."""
    return stream_parquet(open_stream(uri))


def open_stream(uri: str) -> pa.NativeFile:
    """A file for random access, wherever it lies; no local one is mapped, as pages that were read count as memory taken."""
    store = object_at(uri)
    path = store.path()
    return store.open("") if path is None else pa.OSFile(str(path))


def stream_parquet(file: pa.NativeFile) -> pq.ParquetFile:
    """The same of an open file; from a server, more is asked for at a time."""
    buffer = _REMOTE_BUFFER_BYTES if isinstance(file, pa.PythonFile) else _BUFFER_BYTES
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=buffer, page_checksum_verification=True)


def require_once(uri: str, names: Sequence[str], column: str, setting: str) -> None:
    """Refuse a file that has no such column, or several.

    Raises:
        InputError: it has not exactly one.
    """
    count = list(names).count(column)
    if not count:
        raise InputError(f"{uri} has no column {column!r}, which {setting} names; it has {some(names)}.")
    if count > 1:
        raise InputError(
            f"{uri} has {count} columns named {column!r}, and {setting} cannot say which; write the file with one of them."
        )


def values_per_row(file: pq.ParquetFile, column: str) -> float:
    """The most numbers that a row of a column has on average in any row group, as the footer says."""
    most = 0.0
    for i in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(i)
        values = (chunk.num_values / max(1, group.num_rows) for chunk in chunks_of(group, [column]))
        most = max(most, *values, 0.0)
    return most


_NAMES = 20


def some(names: Sequence[str]) -> str:
    """Names in one line, the first of them where they are many."""
    more = f", ... ({len(names)} in all)" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more
