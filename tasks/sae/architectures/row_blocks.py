"""A step's rows in blocks, where memory ends.

The largest tensors of a step are pre-activations, [n, d_sae], and what is made of them. What is selected in a row depends on
no other row, and sums over rows add up: a step in blocks comes to what it comes to at once, to rounding. Between two
collectives a worker takes as many blocks as its own memory asks for. No message depends on that: workers need not agree.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from tasks.errors import InputError
from tasks.out_of_memory import is_out_of_memory
from tasks.sae.architectures.base import Scratch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Work = Callable[[Sequence[slice]], Result]
"""(blocks of rows, in their order) -> what it comes to over all of them; never None."""


def in_blocks(n: int, scratch: Scratch, work: Work[Result]) -> Result:
    """What ``work`` gives of ``n`` rows, all at once or in blocks that are halved as long as memory ends.

    ``work`` may be begun several times. So it changes nothing that it reads, and no other worker waits for it twice.

    Raises:
        InputError: a single row does not fit.
    """
    learnt = scratch.most_rows
    size = min(n, learnt or n)
    while (found := _tried(work, [slice(first, min(n, first + size)) for first in range(0, n, size)])) is None:
        scratch.buffers.clear()
        if size == 1:
            raise InputError(
                "There is no memory for the pre-activations of a single row. Lower sae.d_sae, raise train.latent_shards, or "
                "use a larger machine."
            )
        size = scratch.most_rows = -(-size // 2)
    if scratch.most_rows != learnt:
        logger.warning("out of memory with %d rows of a step at once; going on with %d at a time", n, size)
    return found


def at_once(n: int, work: Work[Result]) -> Result:
    """What ``work`` gives of ``n`` rows where other workers wait for it on its way, so that it cannot be begun again.

    Raises:
        InputError: memory ended.
    """
    found = _tried(work, [slice(0, n)])
    if found is None:
        raise InputError(
            f"There is no memory for a step of {n} rows over all latents, which workers that hold parts of the latents take "
            "at once. Lower train.batch_tokens, or leave train.latent_shards at 1."
        )
    return found


def _tried(work: Work[Result], blocks: Sequence[slice]) -> Result | None:
    """None where memory ended; the error is let go, whose frames hold the tensors that there was memory for."""
    try:
        return work(blocks)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return None
