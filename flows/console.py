"""What a run says on the console: bars on a terminal, plain lines elsewhere. All of it goes to stderr."""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from typing_extensions import override

from flows.pace import Pace
from tasks.progress import Listener, Progress
from tasks.secret import masked

LINE_EVERY_S = 5.0
MOST_CHARACTERS = 2000
"""Of an error: some libraries name every file or class that they know."""


def say(console: Console, message: str, style: str | None = None) -> None:
    """Print a line as it is: unwrapped, with its brackets left alone; only secrets in addresses are masked."""
    console.print(masked(message), style=style, markup=False, highlight=False, soft_wrap=True)


def on_one_line(sentence: str) -> str:
    """The sentence without line ends, without what moves a terminal's cursor or colours it, and of bearable length."""
    joined = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", sentence.strip())
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)
    if len(plain) <= MOST_CHARACTERS:
        return plain
    return f"{plain[: MOST_CHARACTERS // 2]} ... {plain[-MOST_CHARACTERS // 2 :]}"


@contextlib.contextmanager
def listening(console: Console) -> Iterator[Listener]:
    """A listener that shows progress on the console until the block ends."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn("{task.fields[stage]:<9}"), BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Bars(*columns, console=console, refresh_per_second=4) as bars:
        yield _on_bars(bars)


@contextlib.contextmanager
def logged_to(handler: logging.Handler) -> Iterator[None]:
    """Until the block ends, give ``handler`` what this project's own stages log, from INFO; other libraries' stays hidden.

    Nobody else gets these records meanwhile: the root logger's handler would write over the bars.
    """
    ours = logging.getLogger("tasks")
    level, propagate = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
        ours.propagate = propagate


class OnConsole(logging.Handler):
    """Shows what is logged on the console: what a stage tells as a dim line, warnings with their origin."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        if record.levelno > logging.INFO:
            say(self._console, self.format(record))
        else:
            say(self._console, record.getMessage(), style="dim")


class Lines:
    """Shows a stage's progress as a plain line, at most every ``LINE_EVERY_S``, and its end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = Pace()
        self._shown: dict[str, float] = {}
        """When a stage last had a line, in monotonic seconds."""

    def __call__(self, progress: Progress) -> None:
        """Show the progress unless the stage's last line is too fresh."""
        now, left = time.monotonic(), self._pace.left(progress)
        ended = progress.done >= progress.total
        if ended or now - self._shown.get(progress.stage, -LINE_EVERY_S) >= LINE_EVERY_S:
            self._shown[progress.stage] = now
            say(self._console, f"{progress.stage}: {describe(progress, left)}")


def _on_bars(bars: Bars) -> Listener:
    shown: dict[str, TaskID] = {}
    pace = Pace()

    def listen(progress: Progress) -> None:
        if progress.stage not in shown:
            shown[progress.stage] = bars.add_task("", stage=progress.stage)
        described = describe(progress, pace.left(progress))
        bars.update(shown[progress.stage], completed=progress.done, total=progress.total or None, description=described)

    return listen


def describe(progress: Progress, left: float | None = None) -> str:
    """The progress in words, such as '1,024/4,096 tokens, 512 tokens/s, 6 s left, loss 0.25', with the seconds left."""
    parts = [f"{progress.done:,}/{progress.total:,} {progress.unit}"]
    if progress.per_second is not None:
        parts.append(f"{progress.per_second:,.{0 if progress.per_second >= 10 else 2}f} {progress.unit}/s")
    if left is not None:
        parts.append(f"{duration(left)} left")
    parts += [f"{name} {value:.3g}" for name, value in progress.numbers.items()]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as a person would say them: '42 s', '7 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send whatever this process and its children write to stdout to stderr instead, until the block ends.

    Ray's workers and libraries print as they like; what remains on stdout is then only what the caller prints after.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
