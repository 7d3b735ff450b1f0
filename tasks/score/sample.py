"""Rows evenly spaced over all that are scored."""

import numpy as np
from jaxtyping import Int64

from tasks.activations.multi_hook import AnySplit
from tasks.activations.schema import Array, no_rows
from tasks.encode.pieces import Piece


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
