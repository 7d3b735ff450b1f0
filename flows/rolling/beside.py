"""Work in a thread beside the main one, which hears of its progress and its end."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tasks.errors import SaemillError
from tasks.progress import Listener, Progress

_LOOK_S = 0.5


class Beside:
    """Runs until its work is done or the block ends; what the work raises, ``look`` raises in the main thread.

    Ray and Prefect take signals and listeners in the main thread only, so the work tells nobody anything by itself.
    """

    def __init__(self, work: Callable[[threading.Event, Listener], None], listener: Listener) -> None:
        """``work`` ends when the event is set, and tells its progress to the listener that it is given."""
        self._work, self._listener = work, listener
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beside", daemon=True)
        self._error: SaemillError | None = None
        self._told: Progress | None = None

    def look(self) -> None:
        """Pass on how far the work is.

        Raises:
            SaemillError: what the work has raised.
        """
        told, self._told = self._told, None
        if told is not None:
            self._listener(told)
        if self._error is not None:
            raise self._error

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait for what the work brings about.

        Raises:
            SaemillError: what the work has raised.
        """
        while not ready():
            ended = not self._thread.is_alive()
            self.look()
            if ended and not ready():
                raise SaemillError("The harvest ended before training could begin. Give the same command again.")
            time.sleep(_LOOK_S)

    def _run(self) -> None:
        try:
            self._work(self._stopped, self._tell)
        except SaemillError as error:
            self._error = error
        except BaseException as error:
            self._error = SaemillError(f"The harvest stopped: {error}")
            self._error.__cause__ = error

    def _tell(self, progress: Progress) -> None:
        self._told = progress

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Have it end, and wait for that."""
        self._stopped.set()
        self._thread.join()
