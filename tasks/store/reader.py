"""Activations back from Parquet: in order for scoring, in seeded lanes for training.

The rows of a split are dealt, by a seeded permutation of row groups, into V virtual lanes. A global batch takes B/V rows
from every lane, and rank r of W reads lanes r, r + W, ...: so batches do not depend on W, and the position is one number,
the step. Resuming needs no saved buffer.
"""

import contextlib
import functools
import heapq
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.artifacts import require_manifest
from tasks.errors import ArtifactError, InputError
from tasks.store.checked import open_shard, reading, require_own_recipe
from tasks.store.objects import open_store
from tasks.store.schema import Array, RowFormat, storage_dtype
from tasks.store.writer import Rows

# A lane mixes this many units at a time, so a batch of 16 lanes draws from up to 64 places of the split at once.
UNITS_MIXED = 4
# Small splits are cut finer than their row groups until each lane has this many units to mix.
UNITS_PER_LANE = 2 * UNITS_MIXED
_OPEN_SHARDS = 64
_BATCHES_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows [start, stop) of one row group, the piece that is dealt to a lane."""

    shard: int
    row_group: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Rows of the unit."""
        return self.stop - self.start


class Split:
    """One hook's train or eval rows, as the manifest lists them."""

    def __init__(self, uri: str, hook: str, split: str) -> None:
        """Read the manifest.

        Raises:
            ArtifactError: the directory is unfinished, has no such hook, or its manifest is another's.
        """
        manifest = require_manifest(uri)
        self._recipe = require_own_recipe(uri, manifest)
        hooks = manifest["hooks"]
        if hook not in hooks:
            raise ArtifactError(f"{uri} has no hook {hook!r}; it has {', '.join(sorted(hooks))}.")
        entry = hooks[hook]
        self.uri = uri
        self.d_in: int = entry["d_in"]
        self.dtype: str = entry["dtype"]
        self.statistics: dict[str, Any] = entry["statistics"]["train"]
        self.shards: list[dict[str, Any]] = entry["splits"][split]["shards"]
        self.rows: int = entry["splits"][split]["rows"]
        self._expected = RowFormat(self.d_in, entry["dtype"], hook, model="", revision="", recipe="")
        self._store = open_store(uri)
        self._open = functools.lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

    def units(self, at_least: int = 1) -> list[Unit]:
        """All rows as units, in order; row groups are cut into equal parts where there are fewer than ``at_least``."""
        groups = [(s, g, rows) for s, shard in enumerate(self.shards) for g, rows in enumerate(shard["row_groups"])]
        parts = -(-at_least // max(1, len(groups)))
        return [
            Unit(s, g, rows * p // n, rows * (p + 1) // n)
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
        return Rows(self._matrix(table), token_id, sequence, position, label)

    def places(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Sequence and position of each row of one shard, without reading its activations."""
        with self._reading(index):
            table = self._open(index).read(columns=["sequence", "position"], use_threads=False)
        return table["sequence"].to_numpy(), table["position"].to_numpy()

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
    return np.concatenate(pieces) if pieces else np.empty((0, source.d_in), storage_dtype(source.dtype))


class LaneReader:
    """Seeded, resumable training batches that do not depend on the number of readers.

    Every lane goes through its own rows, each once per epoch in a new order, without end; lanes hold the same number of
    rows up to one unit, so rows are seen equally often up to one.
    """

    def __init__(
        self,
        uri: str,
        hook: str,
        *,
        batch_rows: int,
        lanes: int,
        seed: int,
        split: str = "train",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Deal the split's units to lanes.

        Raises:
            InputError: there are fewer rows than lanes.
        """
        self._split = Split(uri, hook, split)
        if self._split.rows < lanes:
            raise InputError(
                f"{uri} has {self._split.rows} rows to train on, fewer than train.lanes ({lanes}). Lower train.lanes."
            )
        self._seed = seed
        self._rows_per_lane = batch_rows // lanes
        dealt = deal(self._split.units(at_least=UNITS_PER_LANE * lanes), lanes, seed)
        self._lanes = {lane: dealt[lane] for lane in range(rank, lanes, world_size)}

    @property
    def d_in(self) -> int:
        """Width of an activation."""
        return self._split.d_in

    @property
    def dtype(self) -> str:
        """Stored precision: bfloat16 (as uint16 bits), float16 or float32."""
        return self._split.dtype

    @property
    def rows(self) -> int:
        """Rows in the split."""
        return self._split.rows

    @property
    def statistics(self) -> dict[str, Any]:
        """The manifest's statistics of the training rows."""
        return self._split.statistics

    def batches(self, first_step: int, n_steps: int) -> Iterator[Array]:
        """This rank's part of batches ``first_step`` to ``first_step + n_steps``: [batch_rows / world_size, d_in].

        A background thread reads ahead.
        """
        return _ahead(self._batches(first_step, n_steps), _BATCHES_AHEAD)

    def _batches(self, first_step: int, n_steps: int) -> Iterator[Array]:
        size = self._rows_per_lane
        streams = [_in_pieces(self._stream(lane, first_step * size), size) for lane in self._lanes]
        for _ in range(n_steps):
            yield np.concatenate([next(stream) for stream in streams])

    def _stream(self, lane: int, position: int) -> Iterator[Array]:
        """A lane's rows from ``position`` on, in blocks of mixed units, without end."""
        units = self._lanes[lane]
        lane_rows = sum(unit.rows for unit in units)
        epoch, offset = divmod(position, lane_rows)
        while True:
            order = np.random.default_rng((self._seed, lane, epoch)).permutation(len(units))
            for block, first in enumerate(range(0, len(units), UNITS_MIXED)):
                mixed = [units[i] for i in order[first : first + UNITS_MIXED]]
                rows = sum(unit.rows for unit in mixed)
                if offset >= rows:
                    offset -= rows
                    continue
                yield self._mix(mixed, np.random.default_rng((self._seed, lane, epoch, block)))[offset:]
                offset = 0
            epoch += 1

    def _mix(self, units: list[Unit], rng: np.random.Generator) -> Array:
        activations = np.concatenate([self._split.activations(unit) for unit in units])
        return activations[rng.permutation(len(activations))]


def deal(units: list[Unit], lanes: int, seed: int) -> list[list[Unit]]:
    """Deal units to lanes in a seeded order, the larger first, each to the lane that has fewest rows."""
    shuffled = [units[i] for i in np.random.default_rng(seed).permutation(len(units))]
    loads = [(0, lane) for lane in range(lanes)]
    dealt: list[list[Unit]] = [[] for _ in range(lanes)]
    for unit in sorted(shuffled, key=lambda unit: -unit.rows):
        rows, lane = heapq.heappop(loads)
        dealt[lane].append(unit)
        heapq.heappush(loads, (rows + unit.rows, lane))
    return dealt


def _in_pieces(blocks: Iterator[Array], size: int) -> Iterator[Array]:
    """Cut an endless stream of blocks into pieces of ``size`` rows, across block borders."""
    kept: list[Array] = []
    while True:
        while sum(map(len, kept)) < size:
            kept.append(next(blocks))
        rows = np.concatenate(kept) if len(kept) > 1 else kept[0]
        yield rows[:size]
        kept = [rows[size:]]


def _ahead(items: Iterator[Array], depth: int) -> Iterator[Array]:
    """Iterate in a background thread, at most ``depth`` items ahead; an error surfaces at its place."""
    ready: queue.Queue[Array | BaseException | None] = queue.Queue(depth)
    closed = threading.Event()

    def offer(item: Array | BaseException | None) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not offer(item):
                    return
            offer(None)
        except BaseException as error:
            offer(error)

    threading.Thread(target=run, name="read-ahead", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()


def _chunk_matrix(chunk: pa.FixedSizeBinaryArray, d_in: int, dtype: str) -> Array:
    stored = storage_dtype(dtype)
    flat: npt.NDArray[Any] = np.frombuffer(
        chunk.buffers()[1], stored, count=len(chunk) * d_in, offset=chunk.offset * d_in * stored.itemsize
    )
    return flat.reshape(len(chunk), d_in)
