"""Rows at once, or fewer where memory ends."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.errors import InputError
from tasks.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class RowsAtOnce:
    """How many rows are worked on at once: all that are given, or as many as memory was found to hold."""

    def __init__(self) -> None:
        self._most: int | None = None

    def parts(
        self, rows: Float[Tensor, "n width"], work: Callable[[Tensor], Result]
    ) -> Iterator[tuple[Float[Tensor, "m width"], Result]]:
        """The rows, in order, and what ``work`` gives of them, never None; as often as memory ends, half as many at once.

        Raises:
            InputError: there is no memory for a single row.
        """
        start = 0
        while start < len(rows):
            part = rows[start : start + (self._most or len(rows))]
            found = _tried(work, part)
            if found is not None:
                yield part, found
                start += len(part)
            else:
                self._halve(len(part))

    def _halve(self, n: int) -> None:
        if n == 1:
            raise InputError(
                "There is no memory to encode a single row with this SAE. Use a device or machine with more of it."
            )
        self._most = -(-n // 2)
        logger.warning("out of memory with %d rows at once; going on with %d", n, self._most)


def _tried(work: Callable[[Tensor], Result], rows: Tensor) -> Result | None:
    """None where memory ended; the error is let go, whose frames hold the tensors that there was memory for."""
    try:
        return work(rows)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return None
