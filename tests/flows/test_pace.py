from collections.abc import Iterable

import pytest

from flows.pace import SETTLED_S, Pace
from tasks.progress import Progress


def told(marks: Iterable[tuple[float, int]], total: int = 1000) -> list[float | None]:
    """What is said to be left at each of some times by the clock, when so much was done."""
    now = [0.0]
    pace, found = Pace(lambda: now[0]), []
    for now[0], done in marks:
        found.append(pace.left(Progress("train", done, total, per_second=1.0)))
    return found


def test_nothing_is_said_before_a_stretch_long_enough_was_seen() -> None:
    said = told((float(second), 10 * second) for second in range(16))
    assert said[: int(SETTLED_S)] == [None] * int(SETTLED_S)
    assert said[int(SETTLED_S) :] == pytest.approx([90 - i for i in range(6)])


def test_a_first_step_that_compiles_does_not_make_hours() -> None:
    """One step in 13 s, then 40 a second: at its own rate the run would take three hours and a half."""
    marks = [(13.0, 1), *((13.0 + second / 2, 1 + 20 * second) for second in range(1, 60))]
    said = told(marks, total=1001)
    assert said[:20] == [None] * 20
    assert all(left is not None and left < 30 for left in said[20:-10])


def test_a_rate_that_still_changes_says_nothing() -> None:
    assert told((float(second), second**3) for second in range(10)) == [None] * 10
    assert told((2.0 * second, 2**second) for second in range(9)) == [None] * 9


def test_it_follows_a_stage_that_slows_down() -> None:
    fast = [(float(second), 10 * second) for second in range(30)]
    slow = [(30.0 + second, 300 + second) for second in range(120)]
    assert told([*fast, *slow], total=1000)[-1] == pytest.approx(581, rel=0.05)


def test_of_a_stage_that_stands_still_nothing_is_said() -> None:
    moving = [(float(second), 10 * second) for second in range(20)]
    said = told([*moving, (119.0, 190)], total=380)
    assert said[-2:] == [pytest.approx(19), None]


def test_a_stage_that_begins_anew_is_looked_at_anew() -> None:
    moving = [(float(second), 10 * second) for second in range(20)]
    assert told([*moving, (20.0, 50), (21.0, 60)])[-2:] == [None, None]


def test_the_end_has_nothing_left() -> None:
    assert told((float(second), 10 * second) for second in range(31))[-1] is not None
    assert told(((float(second), 10 * second) for second in range(31)), total=300)[-1] is None
