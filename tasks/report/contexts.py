"""The contexts in which latents fire, as columns that can be cut by latent without a Python object per token."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ragged:
    """A list column: the items of row r are ``values[offsets[r]:offsets[r + 1]]``."""

    offsets: NDArray[np.int64]
    values: pa.Array

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Ragged":
        """The parts of a list column; an absent list is an empty one."""
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # a column without rows stays chunked
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls(offsets, array.flatten())

    def row(self, row: int) -> pa.Array:
        """Items of one row."""
        return self.rows(row, row + 1)

    def rows(self, start: int, stop: int) -> pa.Array:
        """Items of rows start..stop-1, one behind the other."""
        return self.values[self.offsets[start] : self.offsets[stop]]


class StoredContexts:
    """examples.parquet, sorted by latent, strongest contexts first."""

    def __init__(self, examples: pa.Table, n_latents: int) -> None:
        self._latent = examples["latent"].to_numpy()
        self._bounds = np.searchsorted(self._latent, np.arange(n_latents + 1))
        self._top = np.asarray(pc.equal(examples["kind"], "top"))
        self.table = examples
        self.tokens = Ragged.of(examples["tokens"])
        self.token_activations = Ragged.of(examples["token_activations"])
        lengths = np.diff(self.tokens.offsets)
        self.peak = np.clip(examples["peak"].to_numpy(), 0, np.maximum(lengths - 1, 0))

    def rows_of(self, latent: int) -> range:
        """Rows of one latent."""
        return range(int(self._bounds[latent]), int(self._bounds[latent + 1]))

    def bounds(self, first: int, stop: int) -> tuple[int, int]:
        """Rows of the latents first..stop-1, as start and stop."""
        return int(self._bounds[first]), int(self._bounds[stop])

    def top_rows(self, latent: int) -> list[int]:
        """Rows of one latent's strongest contexts, strongest first."""
        return [row for row in self.rows_of(latent) if self._top[row]]

    def parts(self, row: int) -> tuple[str, str, str]:
        """A context's text before the peak, at it and behind it."""
        tokens: list[str] = self.tokens.row(row).to_pylist()
        peak = int(self.peak[row])
        return "".join(tokens[:peak]), tokens[peak], "".join(tokens[peak + 1 :])
