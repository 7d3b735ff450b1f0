"""In which order rows go by: units dealt to lanes, and each lane's units mixed a few at a time.

Nothing here knows what a row is or where it lies, so the same code orders activations, and the rows' documents when the
quality of the shuffle is measured.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.activations.row_ranges import Unit
from tasks.activations.schema import Array

# A lane mixes this many units at a time, so a batch of 16 lanes draws from up to 64 places of the split at once.
UNITS_MIXED = 4
# Small splits are cut finer than their row groups until each lane has this many units to mix.
UNITS_PER_LANE = 2 * UNITS_MIXED

ReadUnits = Callable[[Iterator[Unit]], Iterator[Array]]
"""The rows of each unit, [unit.rows, ...], in the order in which the units are given; it may work ahead."""


@dataclass(frozen=True, slots=True)
class Block:
    """Units that one lane mixes with each other."""

    lane: int
    units: list[Unit]
    seed: tuple[int, ...]
    first: int
    """Rows of the lane's stream before this block, counted from where the stream was begun; negative in mid-block."""

    @property
    def rows(self) -> int:
        """Rows of all its units."""
        return sum(unit.rows for unit in self.units)

    def places(self) -> npt.NDArray[np.intp]:
        """Where in the block each row goes, [rows], the units' rows taken one unit after another."""
        places = np.empty(self.rows, np.intp)
        places[np.random.default_rng(self.seed).permutation(self.rows)] = np.arange(self.rows)
        return places


def deal(units: Sequence[Unit], lanes: int, seed: int) -> list[list[Unit]]:
    """Deal units to lanes in a seeded order, the larger first, each to the lane that has fewest rows."""
    shuffled = [units[i] for i in np.random.default_rng(seed).permutation(len(units))]
    loads = [(0, lane) for lane in range(lanes)]
    dealt: list[list[Unit]] = [[] for _ in range(lanes)]
    for unit in sorted(shuffled, key=lambda unit: -unit.rows):
        rows, lane = heapq.heappop(loads)
        dealt[lane].append(unit)
        heapq.heappush(loads, (rows + unit.rows, lane))
    return dealt


def batches(
    lanes: Mapping[int, list[Unit]], seed: int, size: int, first_step: int, n_steps: int, rows: ReadUnits
) -> Iterator[Array]:
    """Batches ``first_step`` to ``first_step + n_steps``, [size * len(lanes), ...], ``size`` rows of each lane.

    Each lane goes through all its rows once per epoch, without end. Held at a time: the rows of one block per lane, in
    memory that is used again, and one batch. ``rows`` is asked for no unit that no batch needs.
    """

    def needed() -> Iterator[Block]:
        return _in_order_of_need(lanes, seed, size, first_step, n_steps)

    blocks, arrays = needed(), rows(unit for block in needed() for unit in block.units)
    mixers = {lane: _Mixer(_most_rows(units)) for lane, units in lanes.items()}

    def refill(mixer: _Mixer) -> None:
        block = next(blocks)
        assert mixer is mixers[block.lane]
        mixer.fill(block, arrays)

    for _ in range(n_steps):
        yield np.concatenate([mixer.piece(size, refill) for mixer in mixers.values()])


def _in_order_of_need(
    lanes: Mapping[int, list[Unit]], seed: int, size: int, first_step: int, n_steps: int
) -> Iterator[Block]:
    """The blocks of all lanes that ``n_steps`` batches are made of, in the order in which those come to them."""
    turns = {lane: turn for turn, lane in enumerate(lanes)}

    def need(block: Block) -> tuple[int, int]:
        return max(0, block.first) // size, turns[block.lane]

    streams = [_blocks(lane, units, seed, first_step * size) for lane, units in lanes.items()]
    return itertools.takewhile(lambda block: need(block)[0] < n_steps, heapq.merge(*streams, key=need))


def _blocks(lane: int, units: list[Unit], seed: int, position: int) -> Iterator[Block]:
    """A lane's blocks from the one that holds row ``position`` of its stream on, without end."""
    epoch, skipped = divmod(position, sum(unit.rows for unit in units))
    first = -skipped
    while True:
        order = np.random.default_rng((seed, lane, epoch)).permutation(len(units))
        for number, start in enumerate(range(0, len(units), UNITS_MIXED)):
            block = Block(lane, [units[i] for i in order[start : start + UNITS_MIXED]], (seed, lane, epoch, number), first)
            first += block.rows
            if first > 0:
                yield block
        epoch += 1


def _most_rows(units: list[Unit]) -> int:
    return sum(sorted((unit.rows for unit in units), reverse=True)[:UNITS_MIXED])


class _Mixer:
    """A lane's present block, each row already at its place.

    Rows are put there straight from each unit, while it is hot in the CPU's caches, and batches are cut off in order: 0.13 s
    of CPU per GB for both, where gathering a batch's rows from all over the block took 0.5 to 0.6 (rows of 1,152 bytes).
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._block: Array | None = None
        self._at = self._end = 0

    def fill(self, block: Block, arrays: Iterator[Array]) -> None:
        places, start = block.places(), 0
        for unit in block.units:
            rows = next(arrays)
            if self._block is None:
                self._block = np.empty((self._most_rows, *rows.shape[1:]), rows.dtype)
            # As opaque items of a row's bytes, NumPy moves each row at once.
            _opaque(self._block)[places[start : start + unit.rows]] = _opaque(rows)
            start += unit.rows
        self._at, self._end = max(0, -block.first), block.rows

    def piece(self, size: int, refill: Callable[["_Mixer"], None]) -> Array:
        """The next ``size`` rows; they hold until the next call."""
        pieces: list[Array] = []
        while True:
            wanted = size - sum(map(len, pieces))
            if self._block is not None:
                pieces.append(self._block[self._at : min(self._at + wanted, self._end)])
                self._at += len(pieces[-1])
                if len(pieces[-1]) == wanted:
                    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
                pieces[-1] = pieces[-1].copy()  # the block's memory is used again
            refill(self)


def _opaque(rows: Array) -> Array:
    row_bytes = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
    return rows.view(f"V{row_bytes}").reshape(-1) if rows.ndim > 1 else rows
