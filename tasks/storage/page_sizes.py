"""How much a row of a Parquet column may take once it is decoded, by what the file says of its pages.

A footer counts a dictionary once, however many rows refer to it: 325 bytes were read as 2,000 rows of 2 MB each, half a GB
for 256 of them. So the dictionary's own page is asked how long it is, and any row may be all of it. What a page says of its
length holds: pyarrow refuses to unpack one that has another.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

_DICTIONARY_PAGE = 2
_I32 = 5
_HEADER_BYTES = 32
# Values that begin as the one before them did: what is in the file once may stand in each, as of a dictionary.
_PREFIXED = "DELTA_BYTE_ARRAY"


def chunks_of(group: Any, columns: Sequence[str]) -> Iterator[Any]:
    """A row group's column chunks that belong to some columns, nested or not; names may hold dots themselves."""
    for i in range(group.num_columns):
        chunk = group.column(i)
        if any(chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}.") for column in columns):
            yield chunk


def most_bytes_per_row(file: pa.NativeFile, group: Any, columns: Sequence[str]) -> float:
    """About the most that a row of these columns takes.

    Args:
        file: the Parquet file, open for random access.
        group: metadata of one of its row groups.
        columns: names.
    """
    return sum(_bytes_per_row(file, chunk, group.num_rows) for chunk in chunks_of(group, columns))


def _bytes_per_row(file: pa.NativeFile, chunk: Any, rows: int) -> float:
    if not chunk.num_values:
        return 0.0
    whole = float(chunk.total_uncompressed_size)
    if _PREFIXED in chunk.encodings:
        return whole
    # A row of lists may hold a dictionary's longest entry several times.
    repeated = max(1.0, float(chunk.num_values) / max(1, rows))
    return whole / max(1, rows) + repeated * _dictionary_bytes(file, chunk)


def _dictionary_bytes(file: pa.NativeFile, chunk: Any) -> int:
    """Length of the dictionary with which a column chunk begins; 0 where it begins with another page."""
    starts = (chunk.dictionary_page_offset if chunk.has_dictionary_page else None, chunk.data_page_offset)
    file.seek(min(start for start in starts if start))
    header = file.read(_HEADER_BYTES)
    try:
        kind, rest = _i32(header)
        return _i32(rest)[0] if kind == _DICTIONARY_PAGE else 0
    except (ValueError, IndexError):  # whatever it is, it is no longer than all
        return int(chunk.total_uncompressed_size)


def _i32(data: bytes) -> tuple[int, bytes]:
    """The next field of a page's header, in Thrift's compact protocol, and what follows it; here all are i32 in order.

    Raises:
        ValueError: there is none.
    """
    end = next((at for at, byte in enumerate(data[1:6], 2) if not byte & 0x80), None)
    if end is None or data[0] != 1 << 4 | _I32:
        raise ValueError("no i32")
    value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[1:end]))
    return value >> 1, data[end:]  # positive numbers are doubled
