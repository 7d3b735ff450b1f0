"""The command ``saemill publish DIR --push``, killed at random moments again and again until it has survived enough.

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

from flows.cli import main
from tasks.publish import pushing  # noqa: F401  # so that each life has it already

SETTLE_S = 0.2
LONGEST_LIFE_S = 0.5


def survive(folder: str, url: str, kills: int, seed: int) -> dict[str, int]:
    """Kill lives until there were so many kills; the last life may end by itself."""
    rng, killed, lives = random.Random(seed), 0, 0
    while True:
        lives += 1
        child = os.fork()
        if child == 0:
            _live(folder, url)
        if killed < kills and not _ended_within(child, rng.uniform(0, LONGEST_LIFE_S)):
            os.kill(child, signal.SIGKILL)
            killed += 1
        status = _waited(child)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise SystemExit(f"a life ended with {os.WEXITSTATUS(status)}")
            return {"kills": killed, "lives": lives}


_ENDED: dict[int, int] = {}


def _ended_within(child: int, seconds: float) -> bool:
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            _ENDED[child] = status
            return True
        time.sleep(0.002)
    return False


def _waited(child: int) -> int:
    return _ENDED.pop(child) if child in _ENDED else os.waitpid(child, 0)[1]


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
