"""Activations in seeded lanes for training.

The rows of a split are dealt, by a seeded permutation of row groups, into V virtual lanes. A global batch takes B/V rows
from every lane, and rank r of W reads lanes r, r + W, ...: so batches do not depend on W, and the position is one number,
the step. Resuming needs no saved buffer. Which row comes when is said in ``order.py``.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tasks.activations.loader.prefetch import ahead, read_ahead
from tasks.activations.loader.shuffle_order import UNITS_PER_LANE, batches, deal
from tasks.activations.multi_hook import AnySplit, open_split
from tasks.activations.row_ranges import Unit
from tasks.activations.schema import Array
from tasks.errors import InputError
from tasks.storage.objects import open_store

_BATCHES_AHEAD = 4
# GETs overlap; local files are memory maps, whose rows are best decoded just before they are mixed.
_GETS_AT_A_TIME = 4
HELD_BYTES = 256 * 2**20
"""Row groups that are read ahead of need from object storage, at most; as much again where units are parts of groups."""


class LaneReader:
    """Seeded, resumable training batches that do not depend on the number of readers.

    Every lane goes through its own rows, each once per epoch in a new order, without end; lanes hold the same number of
    rows up to one unit, so rows are seen equally often up to one.

    Memory: four row groups for each of the reader's lanes, six batches, and from object storage ``HELD_BYTES`` ahead. Of a
    split with fewer than eight row groups per lane, up to ``HELD_BYTES`` of row groups are kept, each decoded once.
    """

    def __init__(
        self,
        uri: str,
        hooks: str | Sequence[str],
        *,
        batch_rows: int,
        lanes: int,
        seed: int,
        split: str = "train",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Deal the split's units to lanes, in an order that is the same for one hook and for several side by side.

        Raises:
            InputError: there are fewer rows than lanes, or most were deleted when they had been trained on.
            ArtifactError: the directory is unfinished, or several hooks do not hold the same tokens.
        """
        self.split: AnySplit = open_split(uri, [hooks] if isinstance(hooks, str) else hooks, split)
        """The rows that are dealt; of several hooks, those side by side."""
        if self.split.parts[0].is_sample:
            raise InputError(
                f"{uri} has only a sample of its training rows: the others were deleted as harvest.keep said. saemill "
                "harvest with its settings and --set harvest.keep=all makes them again."
            )
        self._batch_rows = batch_rows
        self._local = open_store(uri).path() is not None
        dealt = deal_split(self.split, lanes, seed)
        self._seed = seed
        self._rows_per_lane = batch_rows // lanes
        self._lanes = {lane: dealt[lane] for lane in range(rank, lanes, world_size)}
        largest = max(size for shard in self.split.shards for size in _group_bytes(shard))
        self._kept = functools.lru_cache(maxsize=max(1, HELD_BYTES // largest))(self._group)

    def batches(self, first_step: int, n_steps: int) -> Iterator[Array]:
        """This rank's part of batches ``first_step`` to ``first_step + n_steps``: [batch_rows / world_size, d_in].

        Rows are as they are stored (int8 rows with their scale): ``tasks.activations.schema`` says what they are.
        A background thread reads ahead. Each batch is an array of its own, which nobody writes to again.
        """
        return ahead(self._batches(self._lanes, first_step, n_steps, HELD_BYTES), _BATCHES_AHEAD)

    def pieces(self, first_step: int, n_steps: int, threads: int) -> Iterator[tuple[Array, ...]]:
        """What ``batches`` gives, each batch as up to ``threads`` arrays that follow each other.

        Each array holds the rows of some lanes, which a background thread of its own reads ahead, in no more memory.
        """
        lanes = list(self._lanes.items())
        cuts = [len(lanes) * part // threads for part in range(threads + 1)]
        parts = [dict(lanes[start:stop]) for start, stop in pairwise(cuts) if stop > start]
        held = HELD_BYTES // len(parts)
        found = [ahead(self._batches(part, first_step, n_steps, held), _BATCHES_AHEAD) for part in parts]
        return zip(*found, strict=True)

    def opening(self, rows: int) -> Iterator[Array]:
        """The first batches, which hold so many rows, or all that there are."""
        return self.batches(0, -(-min(rows, self.split.rows) // self._batch_rows))

    def whence(self, step: int, row: int) -> str:
        """Where a row of this rank's part of a batch lies, in words."""
        shards = self.split.shards

        def places(units: Iterator[Unit]) -> Iterator[Array]:
            for unit in units:
                first = sum(shards[unit.shard]["row_groups"][: unit.row_group]) + unit.start
                yield np.stack([np.full(unit.rows, unit.shard), np.arange(first, first + unit.rows)], axis=1)

        shard, place = next(batches(self._lanes, self._seed, self._rows_per_lane, step, 1, places))[row]
        return f"row {place} of {shards[shard]['key']}"

    def close(self) -> None:
        """Let go of the row groups that are kept, which else the cyclic garbage collector would come to some time."""
        self._kept.cache_clear()

    def _batches(self, lanes: Mapping[int, list[Unit]], first_step: int, n_steps: int, held: int) -> Iterator[Array]:
        """The rows that some lanes give to each batch; ``held`` bytes are read ahead from object storage."""

        def rows(units: Iterator[Unit]) -> Iterator[Array]:
            if self._local:
                return map(self._unit, units)
            return read_ahead(self._unit, units, self._bytes, held, _GETS_AT_A_TIME)

        return batches(lanes, self._seed, self._rows_per_lane, first_step, n_steps, rows)

    def _unit(self, unit: Unit) -> Array:
        if unit.rows == self.split.shards[unit.shard]["row_groups"][unit.row_group]:
            return self.split.activations(unit)
        return self._kept(unit.shard, unit.row_group)[unit.start : unit.stop]

    def _group(self, shard: int, row_group: int) -> Array:
        return self.split.activations(Unit(shard, 0, self.split.shards[shard]["row_groups"][row_group], row_group))

    def _bytes(self, unit: Unit) -> int:
        return _group_bytes(self.split.shards[unit.shard])[unit.row_group]


def deal_split(split: AnySplit, lanes: int, seed: int) -> list[list[Unit]]:
    """The units of each lane.

    Raises:
        InputError: there are fewer rows than lanes.
    """
    if split.rows < lanes:
        raise InputError(
            f"{split.uri} has {split.rows} rows to train on, fewer than train.lanes ({lanes}). Lower train.lanes."
        )
    return deal(split.units(at_least=UNITS_PER_LANE * lanes), lanes, seed)


def _group_bytes(shard: Mapping[str, Any]) -> list[int]:
    """About what each row group's activations take: the shard's bytes by rows, which is some 1% too much."""
    return [shard["size"] * rows // max(1, shard["rows"]) for rows in shard["row_groups"]]
