"""Several processes at once on one machine, each with a rank; they start in milliseconds, as one imports torch for all."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

import torch.multiprocessing as mp

PRELOADED = ["pytest", "torch", "torch.distributed", "tasks.train.worker", "tests.composed"]
"""What the process imports of which all others are forks: 5 s of CPU, else in each of them (Zen 3)."""


def forkserver() -> ForkServerContext:
    """Starts processes that have imported what most of them need, and nothing of this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # of no effect once it runs
    return context


def together(work: Callable[..., None], *arguments: Any, world_size: int) -> None:
    """Have ``work(rank, *arguments)`` done by as many processes, and raise what one of them raised."""
    forkserver()
    mp.start_processes(work, arguments, nprocs=world_size, start_method="forkserver")
