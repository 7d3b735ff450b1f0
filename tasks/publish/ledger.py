"""What was sent and what was answered: an append-only file of JSON lines, on disk before anything is sent.

A kill leaves each call in one of three states. Without a line it was not sent. With a line and no answer, nobody here knows
what came of it. With an answer it is done.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tasks.errors import ArtifactError, InputError

Json = dict[str, Any]


@dataclass
class CallRecord:
    """What is known of one call."""

    sent: float
    """When it was last sent, in seconds since the epoch."""
    answered: bool = False


@dataclass
class PushLedger:
    """The calls to one server of one built folder."""

    file: IO[bytes]
    of: Mapping[str, str]
    """Which server, and which folder's content; lines of others are passed over."""
    calls: dict[str, CallRecord] = field(default_factory=dict)

    def sending(self, call: str) -> None:
        """Must come before the call is sent."""
        self._sent(call, time.time())

    def doubted(self, call: str) -> None:
        """It may have been sent, up to this moment, by somebody whose ledger is lost or in another folder."""
        self._sent(call, time.time())

    def answered(self, call: str, **answer: Any) -> None:
        """The server has done it."""
        self._append({"call": call, "answer": answer})
        self.calls.setdefault(call, CallRecord(time.time())).answered = True

    def done(self, call: str) -> bool:
        """Whether it was answered."""
        record = self.calls.get(call)
        return record is not None and record.answered

    def in_doubt(self, call: str) -> float | None:
        """When a call was sent whose answer is not known; None where it was not sent, or was answered."""
        record = self.calls.get(call)
        return record.sent if record is not None and not record.answered else None

    def _sent(self, call: str, when: float) -> None:
        self._append({"call": call, "sent": when})
        self.calls[call] = CallRecord(when)

    def _append(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps({**self.of, **line}).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())


@contextmanager
def opened(path: Path, of: Mapping[str, str]) -> Iterator[PushLedger]:
    """The ledger at a path, for this process alone.

    Raises:
        InputError: another process has it.
        ArtifactError: a line of it is damaged.
    """
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which the system lets go when the process dies
        except BlockingIOError:
            raise InputError(f"Another saemill publish --push works with {path}; wait for its end.") from None
        ledger = PushLedger(file, of)
        for line in _whole_lines(file, path):
            if all(line.get(name) == value for name, value in of.items()):
                record = ledger.calls.setdefault(str(line["call"]), CallRecord(0.0))
                record.sent = line.get("sent", record.sent)
                record.answered = "answer" in line
        yield ledger


def _whole_lines(file: IO[bytes], path: Path) -> list[Json]:
    """All lines; a last one that a kill cut short is removed: what it was to tell of had not begun, or is asked again."""
    file.seek(0)
    data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        file.truncate(len(whole))
    try:
        return [line for line in map(json.loads, whole.splitlines()) if line["call"]]
    except (ValueError, TypeError, KeyError):
        raise ArtifactError(
            f"{path} is damaged: a line of it is no record of a call. Move it away and give --resume, which asks the server "
            "what it has."
        ) from None
