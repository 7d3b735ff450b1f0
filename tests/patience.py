"""How long tests wait."""

import time
from collections.abc import Callable

PATIENCE_S = 900.0
"""For what takes seconds on a quiet machine: a busy one makes tests slow, not red, and what hangs ends some time."""


def until(ready: Callable[[], object], what: str, said: Callable[[], str] = str) -> None:
    """Wait for a condition; where it never comes, what it was and what ``said`` tells of it are the error."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, f"it never came so far: {what} {said()}"
        time.sleep(0.002)
