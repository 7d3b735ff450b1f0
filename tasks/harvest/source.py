"""What own activations are to ingest, whatever file they come from."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tasks.errors import InputError

Float32s = npt.NDArray[np.float32]

MAX_D_IN = 2**20
"""Wider rows are refused: of no model, and 128 of them would fill half a GiB."""
NUMBERS = "whole numbers, float16, bfloat16, float32 or float64"


class Source(Protocol):
    """Rows of activations, readable from first to last."""

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        ...

    @property
    def d_in(self) -> int:
        """Numbers in a row."""
        ...

    def chunks(self, rows: int) -> Iterator[tuple[Float32s, list[str] | None]]:
        """Activations [at most ``rows``, d_in] with their labels, in order; every chunk but the last is full."""
        ...


def require_width(where: str, d_in: int) -> None:
    """Refuse rows that no model has.

    Raises:
        InputError: they are too wide, and reading them would fill the memory.
    """
    if d_in > MAX_D_IN:
        raise InputError(f"{where} has rows of {d_in:,} numbers; at most {MAX_D_IN:,} can be a model's activations.")


def as_float32(values: npt.NDArray[np.generic]) -> Float32s:
    """Contiguous float32 of any numbers; what is too large for it becomes infinite, which ingest refuses."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, np.float32)
