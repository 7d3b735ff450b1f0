"""How kernels are compiled and started, and which types they compute in."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether TRITON_INTERPRET was set when kernels were defined: numpy runs them then, on tensors of CPUs, for tests."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first use, for each combination of types and constants; the machine code is kept in Triton's cache.

    Kernels carry ``@no_type_check``, so that tests leave their bodies alone: what wraps functions would hide them from
    Triton.
    """
    return triton.jit(function)


def launch(function: Any, grid: tuple[int, ...], *tensors: Any, **others: Any) -> None:
    """Start as many programs as ``grid`` says on the device of the first tensor; none where an axis of it is empty."""
    if 0 in grid:
        return
    with torch.cuda.device_of(tensors[0]):  # type: ignore[no-untyped-call]
        function[grid](*tensors, **others)


def accumulator(dtype: torch.dtype) -> Any:
    """What sums over numbers of ``dtype`` are held in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def block_of(width: int, most: int | None = None) -> int:
    """The next power of two, of which the width of a program's block has to be one; at most ``most``."""
    block: int = triton.next_power_of_2(width)
    return block if most is None else min(block, most)


@cache
def ends_on(device: torch.device, ends: tuple[int, ...]) -> Tensor:
    """Ends of groups of latents as int32 on a device: copied there once, as a copy may make the host wait."""
    return torch.tensor(ends, dtype=torch.int32, device=device)
