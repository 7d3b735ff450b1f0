import io

import pytest
from rich.console import Console

from flows.console import Lines, describe, duration, listening
from tasks.progress import Progress


def test_progress_is_told_with_rate_time_left_and_figures() -> None:
    progress = Progress("train", 1024, 4096, per_second=512, numbers={"loss": 0.25, "l0": 32})
    assert describe(progress) == "1,024/4,096 tokens, 512 tokens/s, 6 s left, loss 0.25, l0 32"


def test_a_finished_stage_has_no_time_left() -> None:
    assert describe(Progress("train", 10, 10, unit="rows", per_second=0.5)) == "10/10 rows, 0.50 rows/s"


@pytest.mark.parametrize("seconds, said", [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_said_as_a_person_would(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_plain_lines_come_at_once_then_rarely_and_at_the_end() -> None:
    written = io.StringIO()
    lines = Lines(Console(file=written))
    for done in range(1, 11):
        lines(Progress("harvest", done, 10))
    assert written.getvalue() == "harvest: 1/10 tokens\nharvest: 10/10 tokens\n"


def test_a_terminal_gets_a_bar_per_stage() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    with listening(console) as listener:
        listener(Progress("harvest", 10, 10))
        listener(Progress("train", 3, 10, numbers={"loss": 0.5}))
    lines = written.getvalue().splitlines()
    assert any("harvest" in line and "━" in line and "10/10 tokens" in line for line in lines)
    assert any("train" in line and "━" in line and "3/10 tokens, loss 0.5" in line for line in lines)
