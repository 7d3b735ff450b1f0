"""Commands whose processes are held up at points and killed, and what must hold afterwards."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil

from tests.conftest import ROOT
from tests.kills.points import NOTED, PAUSE
from tests.kills.processes import kill_tree
from tests.patience import PATIENCE_S, until


class Command:
    """A command of one stage, given as often as it takes until there is a result."""

    folder: Path
    """For points, for what the command's processes note, and for what it says."""
    pause_s: float = 0.0
    """How much longer than it would take each step takes, until told to hurry."""

    def arguments(self) -> list[str]:
        """The module that arms the command's points and runs it, and what it is given."""
        raise NotImplementedError

    def start(self) -> psutil.Popen:
        """The command as a process."""
        self.folder.mkdir(exist_ok=True)
        if self.pause_s:
            (self.folder / PAUSE).write_text(str(self.pause_s))
        with open(self.folder / "said", "a") as said:
            return psutil.Popen(
                [sys.executable, "-m", *self.arguments()],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=said,
                stderr=said,
            )

    @contextmanager
    def running(self) -> Iterator[psutil.Popen]:
        """The command as a process, of which nothing is left in the end."""
        process = self.start()
        try:
            yield process
        finally:
            kill_tree(process)

    def run(self) -> int:
        """Its exit code."""
        with self.running() as process:
            return int(process.wait(PATIENCE_S))

    def said(self) -> str:
        return self._text("said")

    def noted(self) -> list[dict[str, Any]]:
        """What processes of the command have done, in that order."""
        whole = self._text(NOTED).rpartition("\n")[0]  # what follows is being written
        return [json.loads(line) for line in whole.splitlines()]

    def begun(self) -> int:
        """Grows whenever something is noted."""
        return sum(path.stat().st_size for path in self.folder.glob(NOTED))

    def arm(self, point: str, step: int = 0, node: str | None = None) -> None:
        """Have the next process that comes by, in a step not before that, on that node if one is named, held up there."""
        self.folder.mkdir(exist_ok=True)
        aside = self.folder / f".{point}"
        aside.write_text(json.dumps({"step": step, "node": node}))
        aside.rename(self.folder / point)

    def until(self, ready: Callable[[], object], what: str, process: psutil.Process) -> None:
        """Wait for what the process brings about, or another for it; in vain once it has ended."""
        until(lambda: ready() or _has_ended(process), what, self.said)
        assert ready(), f"the command ended before {what}: {self.said()}"

    def struck(self, point: str) -> list[int]:
        """Ids of the processes that were held up at the point and not let go."""
        return [int(held.suffix.removeprefix(".")) for held in self.folder.glob(f"{point}.*")]

    def held(self, point: str, process: psutil.Process) -> int:
        """Wait for who is held up at the point, while the command's process lives; the id."""
        self.until(lambda: self.struck(point), f"anyone came to {point}", process)
        return self.struck(point)[0]

    def let_go(self, point: str) -> None:
        """Let whoever is held up at the point go on, if it still lives; the point is no longer armed."""
        for held in self.folder.glob(f"{point}.*"):
            held.unlink()

    def hurry(self) -> None:
        """No longer make steps take longer than they would."""
        (self.folder / PAUSE).unlink(missing_ok=True)

    def result(self) -> list[bytes]:
        """The bytes that an undisturbed run's result has too."""
        raise NotImplementedError

    def counts(self) -> dict[str, int]:
        """What was done for the result, and what was begun for it."""
        raise NotImplementedError

    def require_kept(self) -> None:
        """What must never change once it is stored has not changed since this was asked last."""

    def require_undisturbed(self, undisturbed: Self) -> None:
        """The result has an undisturbed run's bits."""
        self.require_kept()
        assert self.result() == undisturbed.result()

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""


def _has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
