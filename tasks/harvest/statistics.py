"""What is known of the activations before any training: sums in float64 that add exactly across shards.

gamma = ||mean|| / root-mean-square deviation predicts dead latents (https://arxiv.org/abs/2605.31518).
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.activations.schema import stored_width
from tasks.activations.tensors import from_stored

# One core, 32,768 x 576 bfloat16, 1,024 rows at a time: 5 ms for norms and 12 for sums; with 64 rows 11 and 19. On a GPU
# more rows mean fewer launches: 8,192 x 4,096 take 0.5 GiB of float64 and of their squares.
_CHUNK_ROWS, _CHUNK_ROWS_OF_GPU = 1024, 8192

Float64s = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over kept rows as they are stored, and over every position before masking.

    Two sums add up to those of all their rows, to the rounding of float64; only ``median_norm`` is a mean of medians.
    """

    count: int
    total: Float64s
    """[d_in], sum of the rows."""
    total_square_norm: float
    squared_error: float
    """Sum of ||x - stored||^2."""
    median_norm: float
    """Median norm of the kept rows; of several shards, their mean weighted by rows."""
    position_count: Float64s
    """[context_length], tokens at each position, masked ones too; empty for rows without positions."""
    position_norm: Float64s
    """[context_length], sum of norms at each position, masked tokens too."""

    def __add__(self, other: "Sums") -> "Sums":
        count = self.count + other.count
        weighted = self.count * self.median_norm + other.count * other.median_norm
        return Sums(
            count,
            self.total + other.total,
            self.total_square_norm + other.total_square_norm,
            self.squared_error + other.squared_error,
            weighted / count if count else 0.0,
            self.position_count + other.position_count,
            self.position_norm + other.position_norm,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, and arrays as base64 of little-endian float64: exact, and read at a fraction of the cost."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _packed(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Sums":
        """The sums that ``to_json`` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not write this.
        """
        arrays = {name: _unpacked(value[name]) for name in ("total", "position_count", "position_norm")}
        return cls(**{**value, **arrays})

    def statistics(self) -> dict[str, Any]:
        """The manifest's statistics of the rows x as they are stored.

        ``count``; ``mean`` [d_in]; ``mean_square_norm`` = E||x||^2; ``variance`` = E||x - mean||^2, which is the trace of
        the covariance; ``gamma`` = ||mean|| / sqrt(variance), None for constant rows; ``median_norm``;
        ``position_mean_norm`` [context_length], masked tokens included; and ``storage_error``, the squared distance from
        the model's own activations to the stored ones over the stored ones' variance: an FVU of storage.
        """
        mean = self.total / self.count
        mean_square_norm = self.total_square_norm / self.count
        variance = max(mean_square_norm - float(mean @ mean), 0.0)
        gamma = float(np.sqrt(mean @ mean / variance)) if variance else None
        positions = [n / c if c else None for n, c in zip(self.position_norm, self.position_count, strict=True)]
        return {
            "count": self.count,
            "mean": mean.tolist(),
            "mean_square_norm": mean_square_norm,
            "variance": variance,
            "gamma": gamma,
            "median_norm": self.median_norm,
            "position_mean_norm": positions or None,
            "storage_error": self.squared_error / self.count / variance if variance else None,
        }


def norms(stored: Tensor, dtype: str) -> Float32s:
    """Norm of each stored row [n], on its device; where a number of a row is not finite, neither is its norm."""
    found = torch.empty(len(stored), dtype=torch.float32, device=stored.device)
    for start, rows in _chunks(stored, dtype):
        found[start : start + len(rows)] = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
    return found.cpu().numpy()


def squared_errors(exact: Float32s, stored: Tensor, dtype: str) -> Float32s:
    """||x - stored||^2 of each row x [n] of ``exact`` [n, d_in]."""
    found = np.empty(len(exact), np.float32)
    for start, rows in _chunks(stored, dtype):
        lost = torch.tensor(exact[start : start + len(rows)]) - rows.float()
        found[start : start + len(rows)] = lost.square_().sum(dim=1).numpy()
    return found


def sum_rows(
    stored: Tensor,
    dtype: str,
    row_norms: Float32s,
    row_errors: Float32s | None = None,
    index: Tensor | None = None,
) -> Sums:
    """Sums over stored rows, on their device, without positions.

    Args:
        stored: [n, stored_width].
        dtype: as they are stored.
        row_norms: what ``norms`` gives, of the rows that count.
        row_errors: what ``squared_errors`` gives, of the rows that count; None where storing loses nothing.
        index: on the rows' device, which of them count. None: all.
    """
    n = len(stored) if index is None else len(index)
    width = stored.shape[1] - stored_width(0, dtype)
    total, squares = torch.zeros(2, width, dtype=torch.float64, device=stored.device)
    for _, rows in _chunks(stored, dtype, index):
        # By columns: torch splits those among its threads, and so gives the same bits with any number of them.
        exact = rows.double()
        total += exact.sum(dim=0)
        squares += exact.square_().sum(dim=0)
    return Sums(
        n,
        total.cpu().numpy(),
        float(squares.cpu().numpy().sum()),
        0.0 if row_errors is None else float(row_errors.sum(dtype=np.float64)),
        float(np.median(row_norms)) if n else 0.0,
        np.empty(0),
        np.empty(0),
    )


def with_positions(sums: Sums, position_norms: Float32s) -> Sums:
    """The same sums with those of the norms [n_sequences, context_length] of all tokens at each position."""
    n, context_length = position_norms.shape
    counts, total = np.full(context_length, float(n)), position_norms.sum(axis=0, dtype=np.float64)
    return replace(sums, position_count=counts, position_norm=total)


def _chunks(stored: Tensor, dtype: str, index: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
    """Numbers of some rows at a time, of all or of those at ``index``, with the first one's place among them."""
    size = _CHUNK_ROWS_OF_GPU if stored.is_cuda else _CHUNK_ROWS
    for start in range(0, len(stored if index is None else index), size):
        here = slice(start, start + size)
        yield start, from_stored(stored[here] if index is None else stored.index_select(0, index[here]), dtype)


def _packed(array: Float64s) -> str:
    return base64.b64encode(array.astype("<f8").tobytes()).decode()


def _unpacked(text: str) -> Float64s:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f8")
