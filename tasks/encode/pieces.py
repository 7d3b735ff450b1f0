"""Stored rows, cut into pieces of work that do not depend on who does it, nor on the number of workers."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tasks.activations.multi_hook import AnySplit
from tasks.activations.row_ranges import RowRange

PIECE_ROWS = 32_768


@dataclass(frozen=True, slots=True)
class Piece(RowRange):
    """Rows [start, stop) of one shard; ``first`` is the number of its first row among all rows that were cut."""

    first: int

    def at_row_groups(self, row_groups: list[int]) -> "list[tuple[int, int]]":
        """The piece as first and end of rows of its shard, cut where a row group ends, so that little is read at once.

        Args:
            row_groups: the number of rows of each row group of the shard.
        """
        ends = [end for end in np.cumsum(row_groups).tolist() if self.start < end < self.stop]
        return list(pairwise([self.start, *dict.fromkeys(ends), self.stop]))


def cut(split: AnySplit, max_rows: int | None = None, piece_rows: int = PIECE_ROWS) -> list[Piece]:
    """The first ``max_rows`` rows of a split (None: all), in stored order."""
    most = split.rows if max_rows is None else max_rows
    pieces: list[Piece] = []
    first = 0
    for index, shard in enumerate(split.shards):
        for start in range(0, shard["rows"], piece_rows):
            stop = min(start + piece_rows, shard["rows"], start + most - first)
            if stop > start:
                pieces.append(Piece(index, start, stop, first))
                first += stop - start
    return pieces
