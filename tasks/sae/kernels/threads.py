"""Sharing a kernel's rows among threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def share(work: Callable[[int, int], object], n: int, chunk: int) -> None:
    """Call ``work(low, high)`` for ranges of at most ``chunk`` that make up 0 to ``n``, on as many threads as torch has.

    Which thread takes which range is left to chance, so ``work`` must write what depends on its range only. These are
    plain threads and not numba's own, whose two portable kinds either end a forked process or one in which two threads
    compute at a time.
    """
    n_threads = min(torch.get_num_threads(), -(-n // chunk))
    if n_threads < 2:
        work(0, n)
        return
    lows = iter(range(0, n, chunk))

    def take() -> None:
        for low in lows:  # the interpreter's lock hands each to one thread
            work(low, min(low + chunk, n))

    pool = _pool(os.getpid(), n_threads - 1)
    others = [pool.submit(take) for _ in range(n_threads - 1)]
    take()
    for other in others:
        other.result()


@cache
def _pool(process: int, n_threads: int) -> ThreadPoolExecutor:  # threads do not survive a fork: one pool per process
    return ThreadPoolExecutor(n_threads, thread_name_prefix="saemill-kernel")
