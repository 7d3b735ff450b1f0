"""Activations back from Parquet, in stored order."""

import contextlib
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.activations.manifest import SAMPLED, require_hooks
from tasks.activations.row_ranges import Unit
from tasks.activations.schema import Array, RowFormat, no_rows, storage_dtype, stored_width
from tasks.activations.shard_file import open_shard, reading, require_own_recipe
from tasks.activations.writer import Rows
from tasks.errors import ArtifactError
from tasks.storage.artifacts import identity, require_manifest, shards_uri
from tasks.storage.objects import open_store

_OPEN_SHARDS = 4096


class Split:
    """One hook's train or eval rows, as the manifest lists them."""

    def __init__(self, uri: str, hook: str, split: str) -> None:
        """Read the manifest.

        Raises:
            ArtifactError: the directory is unfinished, has no such hook, or its manifest is another's.
        """
        manifest = require_manifest(uri)
        recipe, shards = require_own_recipe(uri, manifest), shards_uri(uri, manifest)
        self._recipe = recipe if shards == uri else identity(shards)
        hooks = require_hooks(uri, manifest)
        if hook not in hooks:
            raise ArtifactError(f"{uri} has no hook {hook!r}; it has {', '.join(sorted(hooks))}.")
        entry = hooks[hook]
        self.uri = uri
        self.entry: dict[str, Any] = entry
        self.d_in: int = entry["d_in"]
        self.dtype: str = entry["dtype"]
        self.statistics: dict[str, Any] = entry["statistics"]["train"]
        self.shards: list[dict[str, Any]] = entry["splits"][split]["shards"]
        self.rows: int = entry["splits"][split]["rows"]
        self.is_sample: bool = split in manifest.get(SAMPLED, {})
        """Whether the rows are what was kept of more, which were harvested while they were trained on."""
        self._expected = RowFormat(self.d_in, entry["dtype"], hook, model="", revision="", recipe="")
        self._store = open_store(shards)
        self._open = functools.lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

    @property
    def parts(self) -> "tuple[Split, ...]":
        """The splits of which this one is made; ``tasks.activations.multi_hook`` makes one of several."""
        return (self,)

    def units(self, at_least: int = 1) -> list[Unit]:
        """All rows as units, in order; row groups are cut into equal parts where there are fewer than ``at_least``."""
        groups = [(s, g, rows) for s, shard in enumerate(self.shards) for g, rows in enumerate(shard["row_groups"])]
        parts = -(-at_least // max(1, len(groups)))
        return [
            Unit(s, rows * p // n, rows * (p + 1) // n, g)
            for s, g, rows in groups
            if rows
            for n in [min(parts, rows)]
            for p in range(n)
        ]

    def activations(self, unit: Unit) -> Array:
        """A unit's activations [rows, d_in], in the stored dtype."""
        with self._reading(unit.shard):
            table = self._open(unit.shard).read_row_group(unit.row_group, columns=["activation"], use_threads=False)
        return self._matrix(table)[unit.start : unit.stop]

    def shard(self, index: int, start: int = 0, stop: int | None = None) -> Rows:
        """Rows [start, stop) of one shard in stored order, all by default; only the row groups that hold them are read."""
        ends = np.cumsum(self.shards[index]["row_groups"], dtype=np.int64)
        stop = self.shards[index]["rows"] if stop is None else stop
        first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop, "left")
        groups = range(int(first), min(int(last) + 1, len(ends)))
        skipped = int(ends[groups.start - 1]) if groups.start else 0
        with self._reading(index):
            table = self._open(index).read_row_groups(list(groups), use_threads=False).slice(start - skipped, stop - start)
        label = table["label"].to_pylist() if "label" in table.column_names else None
        token_id, sequence, position = (table[name].to_numpy() for name in ("token_id", "sequence", "position"))
        return Rows(self._matrix(table), token_id, sequence + self._first_sequence(index), position, label)

    def places(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Sequence and position of each row of one shard, without reading its activations."""
        with self._reading(index):
            table = self._open(index).read(columns=["sequence", "position"], use_threads=False)
        return table["sequence"].to_numpy() + self._first_sequence(index), table["position"].to_numpy()

    def _first_sequence(self, index: int) -> int:
        """Stored rows count their sequences from their shard's first, so that the shard can stand in several corpora."""
        first: int = self.shards[index]["first_sequence"]
        return first

    def _matrix(self, table: pa.Table) -> Array:
        chunks = [_chunk_matrix(chunk, self.d_in, self.dtype) for chunk in table["activation"].chunks]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def _open_shard(self, index: int) -> pq.ParquetFile:
        return open_shard(self._store, self.shards[index], self._expected, self._recipe)

    def _reading(self, index: int) -> contextlib.AbstractContextManager[None]:
        return reading(self._store, self.shards[index]["key"])


def read_rows(uri: str, hook: str, split: str, max_rows: int | None = None) -> Array:
    """The first ``max_rows`` activations of a split in stored order, [n, d_in] in the stored dtype."""
    source = Split(uri, hook, split)
    wanted = source.rows if max_rows is None else min(max_rows, source.rows)
    pieces: list[Array] = []
    for unit in source.units():
        if wanted <= 0:
            break
        pieces.append(source.activations(unit)[:wanted])
        wanted -= len(pieces[-1])
    return np.concatenate(pieces) if pieces else no_rows(source.d_in, source.dtype)


def _chunk_matrix(chunk: pa.FixedSizeBinaryArray, d_in: int, dtype: str) -> Array:
    stored, width = storage_dtype(dtype), stored_width(d_in, dtype)
    flat: npt.NDArray[Any] = np.frombuffer(
        chunk.buffers()[1], stored, count=len(chunk) * width, offset=chunk.offset * width * stored.itemsize
    )
    return flat.reshape(len(chunk), width)
