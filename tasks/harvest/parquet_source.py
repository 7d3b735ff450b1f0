"""Own activations in Parquet: files of a list, fixed-size list or fixed-size binary column, read some rows at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.activations.schema import RowFormat, storage_dtype, stored_width, to_float32
from tasks.errors import InputError, SaemillError
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.source import NUMBERS, Float32s, as_float32, require_width
from tasks.storage.foreign import open_parquet, open_stream, reading, require_once, stream_parquet, values_per_row
from tasks.storage.page_sizes import most_bytes_per_row

# Of what is decoded at once; list columns take several times as much on the way.
_BATCH_BYTES = 8 * 2**20
_LABEL_BYTES = 32 * 2**20
_LONGEST_LABEL = 16_384
_FOOTERS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class _ParquetFile:
    uri: str
    n_rows: int
    d_in: int
    """0 where there are no rows."""
    row_format: RowFormat | None
    """Of a binary column."""
    label_bytes: float = 0.0
    """The most that a row's label takes, as far as the file tells."""


class ParquetSource:
    """Rows of one or several files, one after the other."""

    def __init__(self, files: Sequence[str], config: ActivationsConfig) -> None:
        """Read the footers and each file's first row.

        Raises:
            InputError: a file is damaged, lacks a column, or has rows of another width than the first.
        """
        self._column, self._label = config.column, config.label_column
        self._columns = [config.column, *([config.label_column] if config.label_column else [])]
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            self._files = list(pool.map(self._inspected, files))
        self.n_rows = sum(file.n_rows for file in self._files)
        if not self.n_rows:
            raise InputError(f"activations.source {config.source} has no rows.")
        first = next(file for file in self._files if file.n_rows)
        self.d_in = first.d_in
        other = next((file for file in self._files if file.n_rows and file.d_in != first.d_in), None)
        if other is not None:
            raise InputError(f"{other.uri} has rows of {other.d_in} numbers, but {first.uri} of {first.d_in}.")

    def chunks(self, rows: int) -> Iterator[tuple[Float32s, list[str] | None]]:
        """As ``Source`` has it."""
        left = self.n_rows
        held, labels, n = np.empty((min(rows, left), self.d_in), np.float32), list[str](), 0
        for values, some in self._batches():
            at = 0
            while at < len(values):
                taken = min(len(held) - n, len(values) - at)
                held[n : n + taken] = values[at : at + taken]
                labels += (some or [])[at : at + taken]
                n, at = n + taken, at + taken
                if n == len(held):
                    yield held, None if self._label is None else labels
                    left -= n
                    held, labels, n = np.empty((min(rows, left), self.d_in), np.float32), [], 0

    def _batches(self) -> Iterator[tuple[Float32s, list[str] | None]]:
        for file in self._files:
            seen = 0
            for batch in self._read(file.uri, self._batch_rows(file), self._columns):
                seen += len(batch)
                if seen > file.n_rows:  # before they are given on: whoever counts down from n_rows would never end
                    break
                labels = None if self._label is None else self._labels(file, batch)
                column = batch.column(batch.schema.names.index(self._column))
                yield self._numbers(file, column, self.d_in), labels
            if seen != file.n_rows:
                holds = f"more than {file.n_rows}" if seen > file.n_rows else f"{seen}"
                raise InputError(f"{file.uri} holds {holds} rows, but its footer speaks of {file.n_rows}.")

    def _batch_rows(self, file: _ParquetFile) -> int:
        return max(1, int(min(_BATCH_BYTES // (4 * self.d_in), _LABEL_BYTES // max(1.0, file.label_bytes))))

    def _labels(self, file: _ParquetFile, batch: pa.RecordBatch) -> list[str]:
        found = _labels(batch.column(batch.schema.names.index(self._label)))
        longest = max(map(len, found), default=0)
        if longest > _LONGEST_LABEL:  # a shard's labels are in memory all at once
            raise InputError(
                f"activations.label_column {self._label!r} of {file.uri} has a label of {longest:,} characters; at most "
                f"{_LONGEST_LABEL:,} were expected."
            )
        return found

    def _read(self, uri: str, rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with reading(f"activations.source {uri}", "Parquet"):
            yield from open_parquet(uri).iter_batches(rows, columns=columns, use_threads=False)

    def _inspected(self, uri: str) -> _ParquetFile:
        with reading(f"activations.source {uri}", "Parquet"):
            stream = open_stream(uri)
            file = stream_parquet(stream)
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
        for setting, column in (("activations.column", self._column), ("activations.label_column", self._label)):
            if column is not None:
                require_once(uri, schema.names, column, setting)
        kind = schema.field(self._column).type
        row_format = self._row_format(schema, uri) if pa.types.is_fixed_size_binary(kind) else None
        if row_format is None:
            self._require_lists(uri, kind)
        if not n_rows:
            return _ParquetFile(uri, 0, 0, row_format)
        d_in = row_format.d_in if row_format is not None else self._list_width(file, uri, kind)
        require_width(uri, d_in)
        return _ParquetFile(uri, n_rows, d_in, row_format, self._label_bytes(file, stream, uri))

    def _label_bytes(self, file: pq.ParquetFile, stream: pa.NativeFile, uri: str) -> float:
        if self._label is None:
            return 0.0
        with reading(f"activations.source {uri}", "Parquet"):
            groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
            return max((most_bytes_per_row(stream, group, [self._label]) for group in groups), default=0.0)

    def _row_format(self, schema: pa.Schema, uri: str) -> RowFormat:
        try:
            return RowFormat.of(schema, uri)
        except SaemillError as error:
            raise InputError(
                f"activations.column {self._column!r} of {uri} is of type {schema.field(self._column).type}, which is read "
                f"only from files that saemill wrote: {error}"
            ) from None

    def _require_lists(self, uri: str, kind: pa.DataType) -> None:
        types = pa.types
        lists = (
            types.is_list(kind)
            or types.is_large_list(kind)
            or types.is_fixed_size_list(kind)
            or types.is_list_view(kind)
            or types.is_large_list_view(kind)
        )
        if not lists or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
            raise InputError(
                f"activations.column {self._column!r} of {uri} is of type {kind}; lists of {NUMBERS} were expected."
            )

    def _list_width(self, file: pq.ParquetFile, uri: str, kind: pa.DataType) -> int:
        """Of the first row, once the footer has said that no row is so long that reading one fills the memory."""
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        with reading(f"activations.source {uri}", "Parquet"):
            most = values_per_row(file, self._column)
        require_width(uri, int(most))
        first = next(batch for batch in self._read(uri, 1, [self._column]) if len(batch)).column(0)
        found: Any = pc.list_value_length(_plain_lists(first))[0].as_py()
        if not found:
            raise InputError(f"activations.column {self._column!r} of {uri} has no numbers in its first row.")
        return int(found)

    def _numbers(self, file: _ParquetFile, column: pa.Array, d_in: int) -> Float32s:
        if column.null_count:
            raise InputError(f"activations.column {self._column!r} of {file.uri} has rows without a value.")
        if file.row_format is not None:
            dtype = file.row_format.dtype
            bits = np.frombuffer(b"".join(column.to_pylist()), storage_dtype(dtype))
            return to_float32(bits.reshape(len(column), stored_width(d_in, dtype)), dtype)
        lists = _plain_lists(column)
        values = lists.flatten()
        if values.null_count or (np.asarray(pc.list_value_length(lists)) != d_in).any():
            raise InputError(
                f"activations.column {self._column!r} of {file.uri} has missing numbers or rows that are not all "
                f"{d_in} numbers long, as the first one is."
            )
        return as_float32(values.to_numpy(zero_copy_only=False)).reshape(len(column), d_in)


def _plain_lists(column: pa.Array) -> pa.Array:
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        return column.cast(pa.large_list(column.type.value_type))
    return column


def _labels(column: pa.Array) -> list[str]:
    """Text as it is, with U+FFFD for what is no UTF-8; all else as Python shows it."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.large_binary())
    values = column.to_pylist()
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
