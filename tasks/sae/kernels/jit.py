"""How kernels are compiled."""

from collections.abc import Callable
from typing import Any

from numba import njit

# Sums may be reordered into vector lanes and products fused into them; NaN and infinity keep their meaning.
_FAST_MATH = {"reassoc", "contract", "nsz"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, without the interpreter's lock, and keep the machine code beside the source.

    Functions that run under it carry ``@no_type_check``, so that tests leave their bodies alone: type checkers that
    wrap functions would hide them from numba.
    """
    options = {"nogil": True, "fastmath": _FAST_MATH, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder for the machine code: neither the source's nor the user's can be written
        return njit(function, **options)  # type: ignore[no-any-return]
