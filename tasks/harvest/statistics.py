"""What is known of the activations before any training: sums in float64 that add exactly across shards.

gamma = ||mean|| / root-mean-square deviation predicts dead latents (https://arxiv.org/abs/2605.31518).
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.store.schema import Array, to_float32

_CHUNK_ROWS = 4096

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over kept rows, and over every position before masking."""

    count: int
    total: Float64s
    """[d_in], sum of the rows."""
    total_square_norm: float
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
            weighted / count if count else 0.0,
            self.position_count + other.position_count,
            self.position_norm + other.position_norm,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; floats survive JSON exactly."""
        return {
            "count": self.count,
            "total": self.total.tolist(),
            "total_square_norm": self.total_square_norm,
            "median_norm": self.median_norm,
            "position_count": self.position_count.tolist(),
            "position_norm": self.position_norm.tolist(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Sums":
        """The sums that ``to_json`` wrote."""
        arrays = {name: np.array(value[name], np.float64) for name in ("total", "position_count", "position_norm")}
        return cls(**{**value, **arrays})

    def statistics(self) -> dict[str, Any]:
        """The manifest's statistics: count, mean [d_in], E||x||^2, E||x - mean||^2, gamma, norms."""
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
        }


def norms(activations: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Norm of each row [n], computed in float32 a few thousand rows at a time."""
    pieces = [np.linalg.norm(chunk, axis=1) for chunk in _float32_chunks(activations, dtype)]
    return np.concatenate(pieces) if pieces else np.empty(0, np.float32)


def sum_rows(activations: Array, dtype: str, row_norms: npt.NDArray[np.float32]) -> Sums:
    """Sums over rows [n, d_in] without positions."""
    total = np.zeros(activations.shape[1])
    for chunk in _float32_chunks(activations, dtype):
        total += chunk.sum(axis=0, dtype=np.float64)
    squares = row_norms.astype(np.float64) ** 2
    median = float(np.median(row_norms)) if len(row_norms) else 0.0
    return Sums(len(activations), total, float(squares.sum()), median, np.empty(0), np.empty(0))


def with_positions(sums: Sums, position_norms: npt.NDArray[np.float32]) -> Sums:
    """The same sums with those of the norms [n_sequences, context_length] of all tokens at each position."""
    n, context_length = position_norms.shape
    return Sums(
        sums.count,
        sums.total,
        sums.total_square_norm,
        sums.median_norm,
        np.full(context_length, float(n)),
        position_norms.sum(axis=0, dtype=np.float64),
    )


def merge(sums: list[Sums]) -> Sums:
    """All sums added in the order given, so that the result's last bit does not depend on who finished first."""
    return reduce(Sums.__add__, sums)


def _float32_chunks(activations: Array, dtype: str) -> list[npt.NDArray[np.float32]]:
    return [to_float32(activations[i : i + _CHUNK_ROWS], dtype) for i in range(0, len(activations), _CHUNK_ROWS)]
