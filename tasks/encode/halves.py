"""Rows at once, or in halves where memory ends."""

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


def in_halves(
    rows: Float[Tensor, "n width"], work: Callable[[Tensor], Result]
) -> Iterator[tuple[Float[Tensor, "m width"], Result]]:
    """Rows and what ``work`` gives of them, never None: all at once, or in halves as often as memory ends.

    Raises:
        InputError: there is no memory for a single row.
    """
    found = _tried(work, rows)
    if found is not None:
        yield rows, found
        return
    if len(rows) == 1:
        raise InputError("There is no memory to encode a single row with this SAE. Use a device or machine with more of it.")
    logger.warning("out of memory with %d rows at once; going on with half as many", len(rows))
    middle = len(rows) // 2
    yield from in_halves(rows[:middle], work)
    yield from in_halves(rows[middle:], work)


def _tried(work: Callable[[Tensor], Result], rows: Tensor) -> Result | None:
    """None where memory ended; the error is let go, whose frames hold the tensors that there was memory for."""
    try:
        return work(rows)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return None
