"""How many sequences go through the model at once: as many as the settings say, or as many as are found to be fastest."""

import logging
from dataclasses import dataclass, field

import torch

from tasks.errors import InputError

logger = logging.getLogger(__name__)

FIRST = 8
"""Where the search begins: enough for most CPUs. Of SmolLM2-135M, an H200 makes 262,000 tokens/s with 8 sequences of 256 at
once, and 2.2 million with 128.
"""
_PASSES = 3
"""Passes of each size. The fastest counts: the first sets up kernels and memory, and others may have been disturbed."""
_RISE = 1.03
"""Twice as many sequences must be so much faster to be worth their memory."""
_TOKENS_ON_A_CPU = 8192
"""What a pass on a CPU grows to at most. One core makes 3,300 tokens/s of two layers of SmolLM2-135M with 8 x 256 and with
32 x 256; and a process that asks for more memory than there is gets it, and is killed as it uses it.
"""


@dataclass(slots=True)
class Batch:
    """Sequences per forward pass, halved when they do not fit in memory.

    Where the settings name no number it is found on the way, with the batches that are to be harvested anyway: twice as
    many are tried until that is no faster, or until memory or the shard would not hold twice as many.
    """

    at_most: int | None = None
    """Learnt by running out of memory; None before that."""
    _size: int = FIRST
    _slower_rate: float = 0.0
    """Sequences per second of half as many at once."""
    _seconds: list[float] = field(default_factory=list)
    """Of passes over ``_size`` sequences."""
    _found: bool = False

    @classmethod
    def of_shards(cls, sequences: int) -> "Batch":
        """A whole shard's ``sequences`` at once, for an engine that itself cuts what it is given; nothing is sought."""
        return cls(_size=sequences, _found=True)

    def sequences(self, wanted: int | None) -> int:
        """What to try next; ``wanted`` is what the settings name."""
        size = self._size if wanted is None else wanted
        return size if self.at_most is None else min(size, self.at_most)

    def asks_for(self, sequences: int) -> bool:
        """Whether the search has to know how long a pass over so many takes."""
        return not self._found and sequences == self._size

    @property
    def is_new(self) -> bool:
        """Whether twice as many are to be tried as have been so far."""
        return self._size > FIRST and not self._seconds

    def differed(self) -> None:
        """Learn that with twice as many the numbers are no longer the same: it stays at half of them."""
        self._found, self._size = True, self._size // 2

    def took(self, seconds: float, *, holds_twice: bool) -> None:
        """Learn how long a pass took that was asked for.

        Args:
            seconds: from its begin to its end.
            holds_twice: memory and the shard hold twice as many sequences.
        """
        self._seconds.append(seconds)
        if len(self._seconds) < _PASSES:
            return
        rate = self._size / min(self._seconds)
        if rate < _RISE * self._slower_rate:
            self._found, self._size = True, self._size // 2
        elif not holds_twice:
            self._found = True
        else:
            self._slower_rate, self._size, self._seconds = rate, 2 * self._size, []

    def halve(self, sequences: int, context_length: int) -> None:
        """Learn that so many did not fit.

        Raises:
            InputError: it was a single one.
        """
        if sequences == 1:
            raise InputError(
                f"There is no memory for a forward pass over one sequence of {context_length} tokens. Lower "
                "text.context_length or harvest.actors, choose earlier or fewer harvest.hooks, or use a larger machine."
            )
        self.at_most, self._found = sequences // 2, True
        logger.warning("out of memory with %d sequences per forward pass; going on with %d", sequences, self.at_most)


def memory_holds_twice(device: torch.device, tokens: int) -> bool:
    """Whether there is room for a pass over twice as many tokens as the ``tokens`` of the largest pass so far.

    A GPU's weights are counted twice as well, so that rows that are copied meanwhile find room beside the pass.
    """
    if device.type != "cuda":
        return 2 * tokens <= _TOKENS_ON_A_CPU
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * torch.cuda.max_memory_allocated(device) <= free + torch.cuda.memory_reserved(device)
