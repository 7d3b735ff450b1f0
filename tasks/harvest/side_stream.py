"""What a GPU does with activations beside the model's work: on a stream of its own, with copies into pinned memory.

On a CPU, which has done what it was asked for when it answers, the same functions do the plain work.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Mark = torch.cuda.Event | None
"""An end of work that a GPU has been asked for; None of a CPU, which has done it already."""


def mark(device: torch.device) -> Mark:
    """The end of all that this thread has asked of the device so far."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


@contextlib.contextmanager
def side_stream(device: torch.device, after: Iterable[Mark]) -> Iterator[None]:
    """Have the device do what is asked of it inside beside other work, behind ``after``; at the end it is done."""
    if device.type != "cuda":
        yield
        return
    stream = _stream_of(device)
    for one in after:
        if one is not None:
            stream.wait_event(one)
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def lend(tensor: Tensor) -> Tensor:
    """The tensor, whose memory goes to no other stream before what this one has been asked to do with it is done."""
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor


def to_host(rows: Tensor) -> Tensor:
    """Rows in main memory; a GPU's are there by the end of ``side_stream``, and what is asked for meanwhile need not wait.

    They go to pinned memory, which torch keeps for the next ones: a copy from there to memory of the usual kind, or from a
    GPU straight into it, runs at a fraction of the speed and holds up the model.
    """
    if not rows.is_cuda:
        return rows
    return torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of main memory on a device, which may still be on their way: a plain copy waits for all that it is behind."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def has_room(device: torch.device, n_bytes: int) -> bool:
    """Whether this process could have so much more memory of a GPU; a CPU's memory is not asked."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@functools.cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """One for all threads: each stream has a pool of memory of its own."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
