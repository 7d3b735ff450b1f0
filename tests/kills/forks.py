"""Processes that are forks of this one, killed at points: one that imports torch takes seconds to replace, a fork none."""

import os
import signal
import traceback
from collections.abc import Callable, Sequence

import psutil

from tests.kills.commands import Command


def fork(work: Callable[..., object], *arguments: object) -> int:
    """A process that does this and ends; its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        work(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # what this process has to do at its end is its parent's


def ended(pid: int) -> int:
    """Wait for a process; its exit code, negative where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(pid: int) -> int:
    """kill -9; how the process ended, which may have been by itself."""
    os.kill(pid, signal.SIGKILL)
    return ended(pid)


def survive(command: Command, points: Sequence[str], start: Callable[[], list[int]], step: int = 0) -> None:
    """End well, though whichever of the command's forks comes first to each of the points is killed there, and all with it.

    Args:
        command: tells of whom is held up.
        points: in the order in which they strike.
        start: forks all processes anew, which go on from what is stored; their ids.
        step: before which nobody is held up.
    """
    for point in points:
        command.arm(point, step)
        pids = start()
        victim = command.held(point, psutil.Process(pids[0]))
        assert killed(victim) == -signal.SIGKILL
        for pid in set(pids) - {victim}:
            killed(pid)
        command.require_kept()
    pids = start()
    assert [ended(pid) for pid in pids] == [0] * len(pids)
