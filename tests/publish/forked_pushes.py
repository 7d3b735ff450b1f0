"""The command ``saemill publish DIR --push``, killed at random moments, again and again, until it has survived enough.

    python -m tests.publish.forked_pushes DIR URL KILLS SEED

Each life is a fork of this process, which has imported everything: a life costs milliseconds. The kills are the system's own
(SIGKILL), so nothing is written or closed on the way out.
"""

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from flows.cli import main
from tasks.publish import pushing  # noqa: F401  # so that each life has it already
from tasks.publish.neuronpedia.push import LEDGER

SETTLE_S = 0.2
LONGEST_WAIT_S = 0.1
"""From a line in the ledger to the kill: as long as the server is at work on a call."""


def survive(folder: str, url: str, kills: int, seed: int) -> dict[str, int]:
    """Kill lives until there were so many kills, each soon after a line in the ledger; the last one ends by itself."""
    rng, killed, lives = random.Random(seed), 0, 0
    while True:
        lives += 1
        before, child = _size(folder), os.fork()
        if child == 0:
            _live(folder, url)
        wait_s = rng.uniform(0, LONGEST_WAIT_S) if killed < kills else None
        status = _waited(child, folder, before, wait_s)
        if os.WIFSIGNALED(status):
            killed += 1
        elif os.WEXITSTATUS(status):
            raise SystemExit(f"a life ended with {os.WEXITSTATUS(status)}")
        else:
            return {"kills": killed, "lives": lives}


def _size(folder: str) -> int:
    ledger = Path(folder, LEDGER)
    return ledger.stat().st_size if ledger.exists() else 0


def _waited(child: int, folder: str, size: int, wait_s: float | None) -> int:
    """How a life ended: by itself, or, if ``wait_s`` is given, by a kill so long after the ledger has another size."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if wait_s is not None and _size(folder) != size:
            time.sleep(wait_s)
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(0.002)


def _live(folder: str, url: str) -> None:
    code = 1
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with suppress(BaseException):
        try:
            main(["publish", folder, "--push", f"neuronpedia:{url}", "--settle", str(SETTLE_S)])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    os._exit(code)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(survive(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))) + "\n")
