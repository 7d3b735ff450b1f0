"""A share of a large matrix of cases, by a seed from the commit: another share with each commit, the same one for each.

``make test`` takes the share, ``make test-all`` (SAEMILL_TEST_ALL=1) every case. pytest's first lines name the seed;
SAEMILL_TEST_SEED=... takes the share of another commit's run again.
"""

import math
import os
import random
import subprocess
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

ALL, SEED = "SAEMILL_TEST_ALL", "SAEMILL_TEST_SEED"

Case = TypeVar("Case")


def every_case() -> bool:
    """Whether nothing is left out."""
    return os.environ.get(ALL, "0") not in ("", "0")


@cache
def seed() -> str:
    """Of this run: what the environment says, else the commit."""
    if given := os.environ.get(SEED):
        return given
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    asked = subprocess.run(git, capture_output=True, text=True)
    return asked.stdout.strip() or "no-commit"


def sampled(
    cases: Iterable[Case],
    share: float = 0.25,
    at_least: int = 1,
    kind: Callable[[Case], Hashable] | None = None,
    *,
    by: str | None = None,
) -> list[Case]:
    """A share of the cases in their order, with at least one case of each kind, for ``pytest.mark.parametrize``.

    Args:
        cases: single values, tuples or ``pytest.param``; a product of axes is best given as one list of tuples.
        share: how much of them to take, where kinds and ``at_least`` do not ask for more.
        at_least: so many cases, if there are so many.
        kind: what must not be left out altogether. Without it, each value of each axis of tuples, but for axes on which
            most cases have a value of their own.
        by: another seed than this run's, which then takes a share even where every case is wanted.
    """
    found = list(cases)
    if every_case() and by is None:
        return found
    wanted = min(len(found), max(at_least, math.ceil(share * len(found))))
    kinds = [{kind(case)} for case in found] if kind else _values_of_axes([_values(case) for case in found])
    order = list(range(len(found)))
    random.Random(f"{by or seed()} {len(found)}").shuffle(order)
    taken, met = set(), set()
    for i in order:
        if not kinds[i] <= met:
            taken.add(i)
            met |= kinds[i]
    for i in order:
        if len(taken) >= wanted:
            break
        taken.add(i)
    return [found[i] for i in sorted(taken)]


def examples(few: int, all_: int) -> int:
    """How many examples hypothesis tries: ``few`` with ``make test``."""
    return all_ if every_case() else few


def _values(case: Any) -> Sequence[Any]:
    values = getattr(case, "values", case)  # of a pytest.param; a dict's is a method
    return values if isinstance(values, tuple) else (case,)


def _values_of_axes(cases: Sequence[Sequence[Any]]) -> list[set[Hashable]]:
    """For each case its values, by their axes; axes on which the cases hardly repeat are left out."""
    axes = range(min(map(len, cases), default=0))
    named = [[_name(case[axis]) for axis in axes] for case in cases]
    repeated = [axis for axis in axes if 2 * len({case[axis] for case in named}) <= len(named)]
    return [{(axis, case[axis]) for axis in repeated} for case in named]


def _name(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)
