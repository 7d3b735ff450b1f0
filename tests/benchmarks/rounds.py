"""Rivals measured in turn, so that whatever else loads the machine loads all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Contender = Callable[[], float]
"""Does its work once and says its speed."""


Found = dict[str, list[float]]
"""Each contender's speed in each round."""


def interleaved(contenders: Mapping[str, Contender], rounds: int, keep: Callable[[Found], object] | None = None) -> Found:
    """Each contender's speed in each round; the one to begin changes from round to round.

    ``keep`` is given what there is after each whole round, so that a run that is killed is not lost.
    """
    found: Found = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(contenders[name]())
            print(f"round {number + 1} of {rounds}: {name} {found[name][-1]:,.4g}", flush=True)
        if keep is not None:
            keep(found)
    return found


def per_second(amount: float, work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return amount / (time.monotonic() - began)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the rounds' ratios: both sides of each were measured within the same minute."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def rows(found: Mapping[str, Sequence[float]], unit: str, against: str) -> list[dict[str, Any]]:
    """One row per contender: median, least and most, and its ratio to the one named."""
    return [
        {
            "contender": name,
            "unit": unit,
            "median": statistics.median(speeds),
            "min": min(speeds),
            "max": max(speeds),
            "ratio": ratio(speeds, found[against]),
            "to": against,
            "rounds": len(speeds),
        }
        for name, speeds in found.items()
    ]
