"""How long a stage still takes, told only once that means something.

The rate since a stage began says little at first: numba compiles, models load, files come into the page cache, and the first
batch of a training run was once taken for five hours. So the last stretch is looked at, and nothing is said before it is
long enough and both its halves go about equally fast.
"""

import time
from collections import deque
from collections.abc import Callable

from tasks.progress import Progress

SETTLED_S = 10.0
"""What a stretch has to last at least."""
_STRETCH_S = 60.0
_STEPS = 6
# Of the halves' rates, the faster by the slower.
_STEADY = 1.5


class Pace:
    """Follows stages by what they tell."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def left(self, progress: Progress) -> float | None:
        """Seconds until the stage ends, None while nobody can say; to be asked of everything that a stage tells."""
        now, seen = self._clock(), self._seen.setdefault(progress.stage, deque())
        if seen and progress.done < seen[-1][1]:  # it began anew
            seen.clear()
        if not seen or progress.done > seen[-1][1]:
            seen.append((now, progress.done))
        while len(seen) > _STEPS + 1 and now - seen[1][0] >= _STRETCH_S:
            seen.popleft()
        rate = self._rate(seen, now)
        return None if rate is None or progress.done >= progress.total else (progress.total - progress.done) / rate

    @staticmethod
    def _rate(seen: deque[tuple[float, int]], now: float) -> float | None:
        (began, first), (ended, last) = seen[0], seen[-1]
        if len(seen) <= _STEPS or ended - began < SETTLED_S:
            return None
        middle, halfway = min(seen, key=lambda mark: abs(mark[0] - (began + ended) / 2))
        if not began < middle < ended:
            return None
        earlier, later = (halfway - first) / (middle - began), (last - halfway) / (ended - middle)
        if max(earlier, later) > _STEADY * min(earlier, later):
            return None
        return (last - first) / (max(ended, now) - began)
