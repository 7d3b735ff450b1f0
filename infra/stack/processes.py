"""The stack's processes: each knows by its environment of which stack and service it is, so that none is ever lost.

Children inherit that, Ray's workers and flow runs among them. A number in a file could be that of somebody else's process by
the time it is read, or be missing where whoever started the process was killed before writing it down.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from infra.stack.places import write

STACK, SERVICE = "SAEMILL_STACK", "SAEMILL_STACK_SERVICE"
STOP_TIMEOUT_S = 60.0
"""Before what has not ended by then is killed. Postgres and SeaweedFS take under 1 s; Ray drains a node for up to 30 s."""


def start(
    root: Path, service: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, user: str | None
) -> psutil.Process:
    """A service's first process, in a session of its own, its output in ``<root>/logs``; written down for ``first``."""
    (root / "logs").mkdir(mode=0o700, exist_ok=True)
    marked = {**environment, STACK: str(root), SERVICE: service}
    with open(root / "logs" / service, "ab", opener=lambda path, flags: os.open(path, flags, mode=0o600)) as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=marked,
            cwd=folder,
            start_new_session=True,
            user=user,
            extra_groups=None if user is None else [],
        )
    process.returncode = 0  # it outlives this process, which Python would complain of
    started = psutil.Process(process.pid)
    (root / "pids").mkdir(mode=0o700, exist_ok=True)
    write(root / "pids" / service, json.dumps({"pid": process.pid, "started": started.create_time()}) + "\n")
    return started


def first(root: Path, service: str) -> psutil.Process | None:
    """The process that was started for a service, if it lives."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        known = json.loads((root / "pids" / service).read_text())
        process = psutil.Process(known["pid"])
        if process.create_time() == known["started"] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def running(root: Path) -> dict[str, list[psutil.Process]]:
    """All processes of the stack, by service."""
    found: dict[str, list[psutil.Process]] = defaultdict(list)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(STACK) == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                found[process.environ()[SERVICE]].append(process)
    for processes in found.values():
        # Postgres writes over the environment of its children.
        known = {process.pid for process in processes}
        for process in list(processes):
            with contextlib.suppress(psutil.Error):
                below = {child.pid: child for child in process.children(recursive=True)}
                processes += [child for pid, child in below.items() if pid not in known]
                known |= set(below)
    return dict(found)


def stop(root: Path, services: Iterable[str]) -> None:
    """End services, one after the other: their first processes by SIGTERM, and what is left then by SIGKILL."""
    for service in services:
        if (process := first(root, service)) is not None:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGINT if service == "postgres" else signal.SIGTERM)  # SIGINT: fast shutdown
                process.wait(STOP_TIMEOUT_S)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while left := running(root).get(service, []):
            for one in left:
                with contextlib.suppress(psutil.Error):
                    one.kill()
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        (root / "pids" / service).unlink(missing_ok=True)


def memory(processes: Iterable[psutil.Process]) -> tuple[int, int]:
    """Bytes that processes take: RSS, which counts what they share once for each, and PSS, which divides it among them."""
    rss = pss = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            taken = process.memory_full_info()
            rss += taken.rss
            pss += getattr(taken, "pss", taken.rss)  # Linux only
    return rss, pss
