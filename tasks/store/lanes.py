"""Activations in seeded lanes for training.

The rows of a split are dealt, by a seeded permutation of row groups, into V virtual lanes. A global batch takes B/V rows
from every lane, and rank r of W reads lanes r, r + W, ...: so batches do not depend on W, and the position is one number,
the step. Resuming needs no saved buffer.
"""

import heapq
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from tasks.errors import InputError
from tasks.store.reader import Split, Unit
from tasks.store.schema import Array

# A lane mixes this many units at a time, so a batch of 16 lanes draws from up to 64 places of the split at once.
UNITS_MIXED = 4
# Small splits are cut finer than their row groups until each lane has this many units to mix.
UNITS_PER_LANE = 2 * UNITS_MIXED
_BATCHES_AHEAD = 4


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
