"""Sharing a kernel's rows among threads.

Torch's own threads are borrowed where they are GNU OpenMP's. Having finished their part of a torch operation these wait
for the next one at full speed for 5 ms (OMP_WAIT_POLICY), on the processors that any other threads would need.
"""

import ctypes
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

Run = Callable[[Callable[[], None], int], None]
"""Calls a function on so many threads at once and waits for all."""

_MAPS = Path("/proc/self/maps")
_PROCESS = os.getpid()
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def share(work: Callable[[int, int], object], n: int, chunk: int) -> None:
    """Call ``work(low, high)`` for ranges of at most ``chunk`` that make up 0 to ``n``, on as many threads as torch has.

    Which thread takes which range is left to chance, so ``work`` must write what depends on its range only.
    """
    lows = iter(range(0, n, chunk))

    def take() -> None:
        for low in lows:  # the interpreter's lock hands each to one thread
            work(low, min(low + chunk, n))

    n_threads = min(torch.get_num_threads(), -(-n // chunk))
    if n_threads > 1:
        _runner(os.getpid())(take, n_threads)
    else:
        take()


@cache
def _runner(process: int) -> Run:
    """OpenMP's threads do not survive a fork, and its library does not notice: a forked process has plain ones."""
    openmp = _openmp() if process == _PROCESS else None
    return plain if openmp is None else openmp


def plain(take: Callable[[], None], n_threads: int) -> None:
    """On this thread and others of Python's."""
    with ThreadPoolExecutor(n_threads - 1) as pool:  # a new thread takes 0.05 ms
        others = [pool.submit(take) for _ in range(n_threads - 1)]
        take()
    for other in others:
        other.result()


def _openmp() -> Run | None:
    """On torch's threads; None where torch has others than GNU OpenMP's."""
    loaded = re.findall(r"\S*/libgomp\S*", _MAPS.read_text()) if _MAPS.exists() else []
    if not loaded:
        return None
    own = str(Path(torch.__file__).parent)
    parallel = ctypes.CDLL(max(loaded, key=lambda path: path.startswith(own))).GOMP_parallel  # other packages bring theirs
    parallel.argtypes = [_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None

    def run(take: Callable[[], None], n_threads: int) -> None:
        errors: list[BaseException] = []

        def safely(_: int | None) -> None:
            try:
                take()
            except BaseException as error:  # C code calls this, and would go on
                errors.append(error)

        parallel(_CALLBACK(safely), None, n_threads, 0)
        if errors:
            raise errors[0]

    return run
