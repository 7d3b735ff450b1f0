import io
import logging

import pytest
from rich.console import Console

from flows.console import Lines, OnConsole, describe, duration, listening, logged_to
from tasks.progress import Progress


def test_progress_is_told_with_rate_time_left_and_figures() -> None:
    progress = Progress("train", 1024, 4096, per_second=512, numbers={"loss": 0.25, "l0": 32})
    assert describe(progress, 6.0) == "1,024/4,096 tokens, 512 tokens/s, 6 s left, loss 0.25, l0 32"


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


def test_what_stages_tell_is_a_line_of_its_own_and_other_libraries_chatter_is_none(caplog: pytest.LogCaptureFixture) -> None:
    written = io.StringIO()
    ours = logging.getLogger("tasks.activations.disk_space")
    with logged_to(OnConsole(Console(file=written, width=20))):
        ours.info("a line that is longer than the console and has [brackets]")
        ours.warning("shard %s failed", "a")
        ours.debug("too much")
        logging.getLogger("transformers").info("chatter")
    ours.info("after the end")
    assert written.getvalue().splitlines() == [
        "a line that is longer than the console and has [brackets]",
        "WARNING tasks.activations.disk_space: shard a failed",
    ]
    assert caplog.messages == [], "the root logger's handlers would show them a second time"


def test_on_a_terminal_what_is_told_is_dim() -> None:
    written = io.StringIO()
    with logged_to(OnConsole(Console(file=written, force_terminal=True))):
        logging.getLogger("tasks").info("told")
    assert written.getvalue() == "\x1b[2mtold\x1b[0m\n"
