"""How kernels are compiled."""

from collections.abc import Callable
from typing import Any

from numba import njit

# Sums may be reordered into vector lanes and products fused into them; NaN and infinity keep their meaning.
_FAST_MATH = {"reassoc", "contract", "nsz"}


def kernel(function: Callable[..., Any], **options: bool) -> Callable[..., Any]:
    """Compile on first use, to run without the interpreter's lock, and keep the machine code beside the source.

    A file's machine code is kept until that file changes, so kernels may call those of their own file only, which are
    ``inlined``. They carry ``@no_type_check``, so that tests leave their bodies alone: what wraps functions would hide them
    from numba.
    """
    try:
        return _compiled(function, cache=True, **options)
    except RuntimeError:  # no folder for the machine code: neither the source's nor the user's can be written
        return _compiled(function, **options)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile what only kernels call into each of them.

    Else there are two of it, one by itself and one in its caller's machine code, optimised apart. A process that compiles
    took the former and one that finds the caller's machine code the latter, and long sums differed in their last bits.
    """
    return kernel(function, forceinline=True)


def _compiled(function: Callable[..., Any], **options: bool) -> Callable[..., Any]:
    compiled: Callable[..., Any] = njit(
        function, nogil=True, fastmath=_FAST_MATH, error_model="numpy", no_cfunc_wrapper=True, **options
    )
    return compiled
