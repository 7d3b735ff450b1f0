"""One logger at work in a thread of its own, so that a slow one holds nothing up and one that breaks is dropped."""

import queue
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from tasks.errors import InputError
from tasks.train.curve import CurveRow
from tasks.train.loggers.facts import RunLogger

OPEN_S = 60.0
"""How long a logger may take to begin."""
CLOSE_S = 30.0
"""How long the end of training waits for loggers that have rows left to send."""


class BackgroundLogger:
    """Works one logger in a thread, which gets what there is to log through a queue that never holds up the sender."""

    def __init__(self, setting: str, value: str, begin: Callable[[], RunLogger], warn: Callable[[str], None]) -> None:
        """``setting`` of ``train`` is ``value``, ``begin`` makes its logger; ``warn`` gets a sentence if it breaks."""
        self._setting, self._value, self._warn = setting, value, warn
        self._orders = queue.SimpleQueue[tuple[CurveRow, float | None] | bool]()
        self._opened = Future[None]()
        self._thread = threading.Thread(target=self._work, args=(begin,), name=f"train.{setting}", daemon=True)
        self._thread.start()

    def log(self, row: CurveRow, waiting: float | None) -> None:
        """Hand over a row, unless the logger has been dropped."""
        if self._thread.is_alive():
            self._orders.put((row, waiting))

    def close(self, failed: bool) -> None:
        """Have the logger closed once it has logged what was handed over."""
        self._orders.put(failed)

    def wait_until_open(self, refuse: bool) -> None:
        """Raise or warn where the logger does not begin."""
        try:
            self._opened.result(OPEN_S)
        except Exception as error:
            why = f"did not answer within {OPEN_S:g} s" if isinstance(error, TimeoutError) else _sentence(error)
            message = f"train.{self._setting} is {_without_password(self._value)!r} but cannot be logged to: {why}"
            if refuse:
                raise InputError(f"{message}. Correct train.{self._setting}, or leave it empty.") from None
            self._warn(f"{message}. Training goes on without it.")

    def wait_until_closed(self, deadline: float) -> None:
        """Wait, or warn where ``deadline`` of the monotonic clock passes."""
        if not self._opened.done():
            return  # said already
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"train.{self._setting} did not take the last rows within {CLOSE_S:g} s; training ends without it.")

    def _work(self, begin: Callable[[], RunLogger]) -> None:
        try:
            run_logger = begin()
        except Exception as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        try:
            while not isinstance(order := self._orders.get(), bool):
                run_logger.log(*order)
            run_logger.close(order)
        except Exception as error:
            self._warn(f"train.{self._setting} failed and is dropped, training goes on: {_sentence(error)}.")
            with suppress(Exception):
                run_logger.close(failed=True)


def _sentence(error: Exception) -> str:
    """An error on one line, of bearable length and without passwords."""
    text = _without_password(" ".join(f"{type(error).__name__}: {error}".split()))
    return (text if len(text) <= 400 else f"{text[:400]}...").rstrip(".")


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//***@", text)
