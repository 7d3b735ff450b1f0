"""Search for the coefficient with which an SAE ends at a given L0, where no other setting says it."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

TOLERANCE = 0.05
_TRIES = 7
_NEAR = 0.6  # of the tolerance: near enough to stop
_LARGEST_STEP = math.log(5)
_SLOPES = (-3.0, -0.15)
R = TypeVar("R")


class Aimed(NamedTuple):
    """A coefficient, and how far from the target it ended."""

    coefficient: float
    miss: float
    """log(L0 / target)."""


def aim(run: Callable[[float], tuple[float, R]], start: float, target: float) -> tuple[Aimed, R]:
    """The run that ends nearest to the target, of at most seven.

    ``run`` trains with a coefficient and says the L0 and whatever is wanted of the run. L0 falls about as a power of the
    coefficient, so each try follows from the two nearest ones by a secant in logarithms.
    """
    tried: list[tuple[Aimed, R]] = []
    coefficient = start
    for _ in range(_TRIES):
        l0, result = run(coefficient)
        tried.append((Aimed(coefficient, math.log(max(l0, 1e-3) / target)), result))
        tried.sort(key=lambda one: abs(one[0].miss))
        if abs(tried[0][0].miss) <= _NEAR * math.log(1 + TOLERANCE):
            break
        coefficient = _next([aimed for aimed, _ in tried])
    return tried[0]


def _next(tried: list[Aimed]) -> float:
    best = tried[0]
    slope = -1.0
    if len(tried) > 1 and tried[1].coefficient != best.coefficient:
        slope = (tried[1].miss - best.miss) / math.log(tried[1].coefficient / best.coefficient)
    slope = min(max(slope, _SLOPES[0]), _SLOPES[1])
    step = min(max(-best.miss / slope, -_LARGEST_STEP), _LARGEST_STEP)
    return best.coefficient * math.exp(step)
