"""How a command ends: its exit code, and one sentence for errors that are meant for the user.

Exit codes: 0 done; 2 what was given is wrong or damaged; 130 and 143 stopped by SIGINT and SIGTERM, which end serve with 0,
as it has no other end; 1 anything else, such as what verify found.
"""

import contextlib
import shlex
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from rich.console import Console
from typer.exceptions import TyperException

from flows.console import on_one_line, say
from tasks.errors import ArtifactError, InputError, SaemillError


class Stopped(BaseException):
    """SIGINT or SIGTERM came; not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


def exit_code(call: Callable[[], int | None], arguments: list[str]) -> int:
    """The exit code of what ``arguments`` ask for; errors that are meant for the user are told in a sentence."""
    try:
        return call() or 0
    except TyperException as error:
        _complain(f"{error.format_message()} See saemill --help.")
        return error.exit_code
    except SaemillError as error:
        # Ray wraps what its workers raise; the cause is the sentence, the wrapper a traceback.
        _complain(str(getattr(error, "cause", error)))
        return 2 if isinstance(error, InputError | ArtifactError) else 1
    except Stopped as stopped:
        _complain(f"Stopped. The same command goes on from here: saemill {shlex.join(arguments)}")
        return stopped.exit_code


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise ``Stopped`` on SIGINT and SIGTERM, unless whoever started this process had them ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def _complain(sentence: str) -> None:
    say(Console(stderr=True), f"saemill: {on_one_line(sentence)}")
