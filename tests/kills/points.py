"""Points at which a process is held up, in the midst of the code under test, until it is killed or let go.

A point holds up the first process that comes by while a file of the point's name lies in a folder: that file is renamed and
tells who it was. Which functions come to which points is for each stage to say. ``commands.py`` has the other side.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import http_writer

import tasks.storage.local as local

NOTED, PAUSE = "noted.jsonl", "pause"
"""Files in the folder, besides those of points: what processes did, and how many seconds each of their steps pauses."""


class Points:
    """The points of one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step = 0
        """The step that is being taken or, after it, was taken last, where steps are counted."""
        self.steps: dict[str, int] = {}
        """Of points that what is done beside the steps comes to, the step that it is of."""

    def armed(self, name: str) -> bool:
        return (self.folder / name).exists()

    def reach(self, point: str) -> None:
        """Stay here if the point is armed for this step and node, and nobody else is held up by it."""
        armed, held = self.folder / point, self.folder / f"{point}.{os.getpid()}"
        try:
            wanted = json.loads(armed.read_text())
            step = self.steps.get(point, self.step)
            if step < wanted["step"] or (wanted["node"] is not None and wanted["node"] != node()):
                return
            armed.rename(held)
        except FileNotFoundError:
            return
        while held.exists():
            time.sleep(0.005)

    def pause(self) -> None:
        """Take longer by as much as is asked for, and no longer than it is."""
        with contextlib.suppress(FileNotFoundError):
            over = time.monotonic() + float((self.folder / PAUSE).read_text())
            while self.armed(PAUSE) and (left := over - time.monotonic()) > 0:
                time.sleep(min(left, 0.05))

    def note(self, **what: object) -> None:
        """Write down what is done here."""
        with open(self.folder / NOTED, "a") as log:
            # One write of less than a page, so that lines of several processes do not mix.
            log.write(json.dumps(what) + "\n")

    def around(
        self, owner: Any, name: str, before: str = "", after: str = "", when: Callable[..., bool] = lambda *_, **__: True
    ) -> None:
        """Have a function, which still does what it does, come to a point before or after it where the arguments say so."""
        real = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            holds = when(*arguments, **named)
            if before and holds:
                self.reach(before)
            found = real(*arguments, **named)
            if after and holds:
                self.reach(after)
            return found

        setattr(owner, name, wrapped)

    def halve_uploads(self, among: str = "") -> None:
        """Half of a file that a LocalStore writes, or of what is PUT on S3, is out before the point ``upload`` is reached.

        Of files those whose paths have ``among`` in them, of bodies to S3 the first piece.
        """
        real: Callable[..., Any] = http_writer.StreamWriter._write

        def opened(path: Any, mode: str = "r") -> Any:
            halved = "w" in mode and among in str(path) and self.armed("upload")
            return _Halved(path, self) if halved else open(path, mode)

        def write(writer: Any, chunk: bytes) -> None:
            if len(chunk) > 1000 and self.armed("upload"):  # headers are smaller
                half = len(chunk) // 2
                writer.transport.write(bytes(chunk[:half]))
                self.reach("upload")
                chunk = chunk[half:]
            real(writer, chunk)

        local.open = opened  # type: ignore[attr-defined]
        http_writer.StreamWriter._write = write  # type: ignore[method-assign,assignment]


class _Halved(io.FileIO):
    """A file to write to, in two halves."""

    def __init__(self, path: Any, points: Points) -> None:
        super().__init__(path, "w")
        self._points = points

    def write(self, data: Any, /) -> int:
        half = super().write(data[: len(data) // 2])
        self._points.reach("upload")
        return half + super().write(data[half:])


def node() -> str | None:
    """The node of the cluster that this process is on; None without Ray."""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else None
