"""The held-out rows that are scored, cut into pieces of work that do not depend on the number of workers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from tasks.store.joined import AnySplit
from tasks.store.schema import Array, no_rows

PIECE_ROWS = 32_768


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of one shard; ``first`` is the number of its first row among all rows scored."""

    shard: int
    start: int
    stop: int
    first: int

    @property
    def rows(self) -> int:
        """Rows of the piece."""
        return self.stop - self.start


def cut(split: AnySplit, max_rows: int, piece_rows: int = PIECE_ROWS) -> list[Piece]:
    """The first ``max_rows`` rows of a split, in stored order."""
    pieces: list[Piece] = []
    first = 0
    for index, shard in enumerate(split.shards):
        for start in range(0, shard["rows"], piece_rows):
            stop = min(start + piece_rows, shard["rows"], start + max_rows - first)
            if stop > start:
                pieces.append(Piece(index, start, stop, first))
                first += stop - start
    return pieces


def spread_rows(split: AnySplit, pieces: list[Piece], wanted: int) -> Array:
    """``wanted`` activations evenly spaced over the pieces (all where there are fewer), [n, stored_width] as stored."""
    total = sum(piece.rows for piece in pieces)
    chosen = evenly(total, wanted)
    parts = []
    for piece in pieces:
        inside = chosen[(chosen >= piece.first) & (chosen < piece.first + piece.rows)] - piece.first
        if len(inside):
            parts.append(split.shard(piece.shard, piece.start, piece.stop).activation[inside])
    return np.concatenate(parts) if parts else no_rows(split.d_in, split.dtype)


def evenly(total: int, wanted: int) -> Int64[np.ndarray, "n"]:
    """``wanted`` numbers evenly spaced over 0 .. total - 1, all of them where there are fewer."""
    n = min(total, wanted)
    return np.arange(n, dtype=np.int64) * total // max(1, n)
