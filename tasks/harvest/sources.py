"""Activations that the user brings: .npy, .safetensors or Parquet, opened for reading by ranges of rows."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
from safetensors import SafetensorError, safe_open

from tasks.artifacts import read_manifest, shards_uri
from tasks.errors import InputError
from tasks.harvest.config import ActivationsConfig
from tasks.store.files import content_identity
from tasks.store.objects import open_store, s3_filesystem
from tasks.store.schema import RowFormat, storage_dtype, stored_width, to_float32

Float32s = npt.NDArray[np.float32]


class Source(Protocol):
    """Rows of activations, readable from first to last."""

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        ...

    @property
    def d_in(self) -> int:
        """Numbers in a row."""
        ...

    def chunks(self, rows: int) -> Iterator[tuple[Float32s, list[str] | None]]:
        """Activations [at most ``rows``, d_in] with their labels, in order; every chunk but the last is full."""
        ...


def open_source(config: ActivationsConfig) -> Source:
    """Open ``activations.source``.

    Raises:
        InputError: there is no such file, it is of no known kind, or what it holds is no matrix of activations.
    """
    path = _present(config)
    suffix = Path(path).suffix
    if suffix == ".npy":
        return _with_labels(config, _open_npy(_local(path)))
    if suffix == ".safetensors":
        return _with_labels(config, _open_safetensors(_local(path), config.tensor))
    return _ParquetSource(path, config)


def source_identity(config: ActivationsConfig) -> str:
    """What the source holds, wherever it lies: hashes of its files.

    Raises:
        InputError: there is no such file.
    """
    path = _present(config)
    files = [path, *([config.labels] if config.labels else [])] if Path(path).suffix else _parquet_files(path)
    with contextlib.suppress(FileNotFoundError):
        return "+".join(content_identity(file) for file in files)
    raise InputError(f"activations.labels is {config.labels}, and there is no such file.")


def _present(config: ActivationsConfig) -> str:
    path = config.source or ""
    exists = s3_filesystem().exists(path) if path.startswith("s3://") else Path(path).exists()
    if not exists:
        raise InputError(f"activations.source is {path!r}, and there is no such file or folder.")
    known = (".npy", ".safetensors", ".parquet")
    if Path(path).suffix not in known and not (path.startswith("s3://") or Path(path).is_dir()):
        raise InputError(
            f"activations.source is {path!r}; it must be a folder of Parquet files or end in {', '.join(known)}."
        )
    return path


def _local(path: str) -> str:
    if not path.startswith("s3://"):
        return path
    local = Path(tempfile.mkdtemp(prefix="saemill-"), Path(path).name)
    s3_filesystem().get_file(path, str(local))
    return str(local)


@dataclass(frozen=True)
class _Matrix:
    """Rows that numpy can slice: a memory-mapped .npy or a tensor of a .safetensors file."""

    values: Any
    n_rows: int
    d_in: int
    labels: list[str] | None = None

    def chunks(self, rows: int) -> Iterator[tuple[Float32s, list[str] | None]]:
        for first in range(0, self.n_rows, rows):
            labels = None if self.labels is None else self.labels[first : first + rows]
            yield np.ascontiguousarray(self.values[first : first + rows], np.float32), labels


def _open_npy(path: str) -> _Matrix:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"activations.source {path} cannot be read as .npy: {error}.") from None
    return _matrix(values, path, values.shape, values.dtype.kind in "fiu")


def _open_safetensors(path: str, tensor: str | None) -> _Matrix:
    try:
        # torch, since numpy has no bfloat16; the file stays memory-mapped
        file: Any = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"activations.source {path} cannot be read as .safetensors: {error}.") from None
    names = sorted(file.keys())
    name = names[0] if tensor is None and len(names) == 1 else tensor
    if name not in names:
        raise InputError(f"activations.tensor is {tensor!r} but must be one of those in {path}: {', '.join(names)}.")
    values = file.get_slice(name)
    return _matrix(_Float32Slices(values), path, tuple(values.get_shape()), values.get_dtype()[0] in "FBIU")


@dataclass(frozen=True)
class _Float32Slices:
    values: Any

    def __getitem__(self, rows: slice) -> Float32s:
        found: Float32s = self.values[rows].float().numpy()
        return found


def _matrix(values: Any, path: str, shape: tuple[int, ...], numeric: bool) -> _Matrix:
    if len(shape) != 2 or 0 in shape or not numeric:
        raise InputError(f"activations.source {path} has shape {list(shape)}; a matrix of numbers [n, d_in] was expected.")
    return _Matrix(values, shape[0], shape[1])


def _with_labels(config: ActivationsConfig, matrix: _Matrix) -> _Matrix:
    if config.labels is None:
        return matrix
    try:
        labels = Path(config.labels).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"activations.labels {config.labels} cannot be read: {error}.") from None
    if len(labels) != matrix.n_rows:
        raise InputError(
            f"activations.labels {config.labels} has {len(labels)} lines, the source has {matrix.n_rows} rows; "
            "one label per row was expected."
        )
    return _Matrix(matrix.values, matrix.n_rows, matrix.d_in, labels)


class _ParquetSource:
    """One Parquet file or a folder of them, with a list, fixed-size list or fixed-size binary column."""

    def __init__(self, path: str, config: ActivationsConfig) -> None:
        files = _parquet_files(path)
        filesystem = s3_filesystem() if path.startswith("s3://") else None
        bare = [file.removeprefix("s3://") for file in files] if filesystem else files
        try:
            self._dataset = ds.dataset(bare, filesystem=filesystem, format="parquet")
            self.n_rows = self._dataset.count_rows()
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"activations.source {path} cannot be read as Parquet: {error}.") from None
        self._path, self._column, self._label = path, config.column, config.label_column
        self._columns = [config.column, *([config.label_column] if config.label_column else [])]
        self._check_columns()
        self.d_in = self._first_row().shape[1]

    def chunks(self, rows: int) -> Iterator[tuple[Float32s, list[str] | None]]:
        table = self._dataset.schema.empty_table().select(self._columns)
        for batch in self._dataset.to_batches(columns=self._columns, batch_size=rows, use_threads=False):
            table = pa.concat_tables([table, pa.Table.from_batches([batch])])
            while len(table) >= rows:
                yield self._convert(table.slice(0, rows))
                table = table.slice(rows)
        if len(table):
            yield self._convert(table)

    def _check_columns(self) -> None:
        names = self._dataset.schema.names
        for setting, column in (("column", self._column), ("label_column", self._label)):
            if column is not None and column not in names:
                raise InputError(
                    f"activations.{setting} is {column!r}, which {self._path} lacks; it has {', '.join(names)}."
                )
        if not self.n_rows:
            raise InputError(f"activations.source {self._path} has no rows.")

    def _first_row(self) -> Float32s:
        return self._convert(self._dataset.head(1, columns=self._columns))[0]

    def _convert(self, table: pa.Table) -> tuple[Float32s, list[str] | None]:
        labels = None if self._label is None else [str(label) for label in table[self._label].to_pylist()]
        column = table[self._column].combine_chunks()
        if pa.types.is_fixed_size_binary(column.type):
            return self._from_binary(column), labels
        return self._from_lists(column), labels

    def _from_binary(self, column: pa.FixedSizeBinaryArray) -> Float32s:
        row_format = RowFormat.of(self._dataset.schema, self._path)
        stored = storage_dtype(row_format.dtype)
        bits = np.frombuffer(b"".join(column.to_pylist()), stored)
        return to_float32(bits.reshape(len(column), stored_width(row_format.d_in, row_format.dtype)), row_format.dtype)

    def _from_lists(self, column: pa.Array) -> Float32s:
        kind = column.type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
            raise InputError(
                f"activations.column {self._column!r} of {self._path} is of type {kind}; a list of numbers was expected."
            )
        values = column.flatten()
        d_in = getattr(self, "d_in", len(values) // max(1, len(column)))
        lengths = np.asarray(pa.compute.list_value_length(column).fill_null(0))
        if values.null_count or not d_in or (lengths != d_in).any():
            raise InputError(
                f"activations.column {self._column!r} of {self._path} has missing numbers or rows that are not all "
                f"{d_in} numbers long, as the first one is."
            )
        return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(len(column), d_in)


def _parquet_files(path: str) -> list[str]:
    """The file itself, or a folder's Parquet files by name; of an activations directory, its one hook's train and eval."""
    if Path(path).suffix == ".parquet":
        return [path]
    manifest = read_manifest(path)
    if manifest is not None and manifest.get("hooks"):
        return _listed_files(path, manifest)
    if path.startswith("s3://"):
        files = sorted(f"s3://{name}" for name in s3_filesystem().find(path) if name.endswith(".parquet"))
    else:
        files = sorted(str(file) for file in Path(path).rglob("*.parquet"))
    if not files:
        raise InputError(f"activations.source {path!r} is a folder without Parquet files.")
    return files


def _listed_files(path: str, manifest: dict[str, Any]) -> list[str]:
    hooks, shards = manifest["hooks"], shards_uri(open_store(path).uri, manifest)
    if len(hooks) > 1:
        raise InputError(
            f"activations.source {path!r} holds the hooks {', '.join(hooks)}; name one hook's folder in {shards}."
        )
    (hook,) = hooks.values()
    return [f"{shards}/{shard['key']}" for split in hook["splits"].values() for shard in split["shards"]]
