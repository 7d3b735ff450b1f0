"""The second look at the rows: the histogram of every latent, and the activations around each chosen one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from tasks.activations.multi_hook import AnySplit
from tasks.activations.writer import Rows
from tasks.encode.chunks import Chunk, encoded
from tasks.encode.codes import CSRCodes
from tasks.encode.pieces import Piece
from tasks.sae import SparseAutoencoder

HISTOGRAM_BINS = 20


@dataclass(frozen=True, slots=True)
class Around:
    """The rows of a piece, with those just before and after it in its shard that windows reach into."""

    rows: Rows
    dtype: str
    first: int
    """Index of the piece's first row."""
    stop: int
    """Index behind its last."""

    @staticmethod
    def read(split: AnySplit, piece: Piece, margin: int) -> "Around":
        """Read a piece and up to ``margin`` rows on each side. A token further away is no nearer in rows."""
        start = max(0, piece.start - margin)
        stop = min(split.shards[piece.shard]["rows"], piece.stop + margin)
        rows = split.shard(piece.shard, start, stop)
        return Around(rows, split.dtype, piece.start - start, piece.stop - start)

    def chunks(self, sae: SparseAutoencoder) -> Iterator[tuple[int, bool, Chunk]]:
        """All rows encoded: the index of each chunk's first row, whether it belongs to the piece, and the chunk.

        The piece's own rows come in the chunks in which the survey saw them, so their codes have the same bits.
        """
        for start, stop in ((0, self.first), (self.first, self.stop), (self.stop, len(self.rows))):
            for chunk in encoded(sae, [self.rows.activation[start:stop]], self.dtype):
                yield start + chunk.start, start == self.first, chunk


@dataclass(frozen=True, slots=True)
class Windows:
    """Tokens around m peaks; ``inside`` marks the places [m, width] that lie in the peak's sequence."""

    sequence: Int64[np.ndarray, "m"]
    position: Int64[np.ndarray, "m width"]
    row: Int64[np.ndarray, "m width"]
    """Row of each place among those around the piece, -1 where the token was masked."""
    inside: Bool[np.ndarray, "m width"]


def windows(rows: Rows, peak: Int64[np.ndarray, "m"], reach: int, context_length: int) -> Windows:
    """The windows of ``reach`` tokens on each side of the rows ``peak``."""
    position = rows.position[peak, None] + np.arange(-reach, reach + 1)
    inside = (position >= 0) & (position < context_length)
    place = rows.sequence * context_length + rows.position
    order = np.argsort(place, kind="stable")
    wanted = rows.sequence[peak, None] * context_length + position
    found = order[np.minimum(np.searchsorted(place, wanted, sorter=order), len(order) - 1)]
    row = np.where(inside & (place[found] == wanted), found, -1)
    return Windows(rows.sequence[peak], position, row, inside)


def activations(
    sae: SparseAutoencoder,
    around: Around,
    row: Int64[np.ndarray, "m width"],
    latent: Int64[np.ndarray, "m"],
    largest: Float32[np.ndarray, "d_sae"],
) -> tuple[Float32[np.ndarray, "m width"], Int64[np.ndarray, "d_sae bins"]]:
    """Each window's latent at each of its rows (0 where that is -1), and the histogram of all latents over the piece."""
    values = np.zeros(row.size, np.float32)
    order = np.argsort(row, axis=None, kind="stable")
    sorted_rows, latents = row.ravel()[order], np.repeat(latent, row.shape[1])
    counts = np.zeros(sae.d_sae * HISTOGRAM_BINS, np.int64)
    for start, own, chunk in around.chunks(sae):
        codes = chunk.codes
        cells = order[slice(*np.searchsorted(sorted_rows, (start, start + len(codes))))]
        values[cells] = _looked_up(codes, row.ravel()[cells] - start, latents[cells])
        if own:
            share = codes.values / largest[codes.latents]
            place = np.minimum((share * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
            counts += np.bincount(codes.latents.astype(np.int64) * HISTOGRAM_BINS + place, minlength=len(counts))
    return values.reshape(row.shape), counts.reshape(sae.d_sae, HISTOGRAM_BINS)


def _looked_up(
    codes: CSRCodes, row: Int64[np.ndarray, "cells"], latent: Int64[np.ndarray, "cells"]
) -> Float32[np.ndarray, "cells"]:
    """The codes of some latents on some rows, 0 where they are not active; a column for each latent would be GiBs."""
    if not len(codes.values):
        return np.zeros(len(row), np.float32)
    places = (codes.rows << 32) | codes.latents
    wanted = (row << 32) | latent
    found = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
    return np.where(places[found] == wanted, codes.values[found], np.float32(0))
