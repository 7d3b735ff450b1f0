"""SIGKILL at random moments, again and again, until runs of a command have survived as many as asked for."""

import logging
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import psutil

from tests.kills.commands import Command
from tests.kills.processes import kill

logger = logging.getLogger(__name__)

AnyCommand = TypeVar("AnyCommand", bound=Command)
Victims = dict[str, list[psutil.Process]]

HASTE_S = 10.0
"""Within which a hasty kill comes, whatever happens meanwhile."""


@dataclass(frozen=True)
class Fire:
    """Whom kills hit, and when."""

    victims: Callable[[psutil.Popen, random.Random], Victims]
    """Of a command's process, by name: who is killed together. Nobody is, where there are none of these."""
    often: Mapping[str, int]
    """How often each of these, compared with the others."""
    longest_wait_s: float
    """After something has begun."""
    hasty_of_ten: int = 0
    """Of ten kills so many come at whatever happens after the last one, mostly a start, rather than when work has begun."""


@dataclass
class Survived:
    """What runs have gone through, each to the result of an undisturbed one."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    commands: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Of what the runs did."""


def survive(make: Callable[[str], AnyCommand], undisturbed: AnyCommand, fire: Fire, kills: int, seed: int) -> Survived:
    """Run commands of new names under fire, until there were so many kills."""
    survived, rng = Survived(), random.Random(seed)
    while survived.kills.total() < kills:
        command = make(f"run-{survived.runs}")
        _run_under_fire(command, fire, survived, rng, kills)
        command.require_undisturbed(undisturbed)
        survived.runs += 1
        survived.counts.update(command.counts())
        logger.info("survived: %s", survived)
    return survived


def _run_under_fire(command: Command, fire: Fire, survived: Survived, rng: random.Random, kills: int) -> None:
    """Give the command until it ends by itself; nothing that was stored for good before a kill may change."""
    code = -signal.SIGKILL
    while code != 0:
        survived.commands += 1
        with command.running() as process:
            while process.poll() is None:
                if survived.kills.total() < kills and _moment_comes(command, process, fire, rng):
                    survived.kills.update(_kill_one(fire, process, rng))
                time.sleep(0.05)
            code = process.returncode
        command.require_kept()
        assert code in (0, -signal.SIGKILL), command.said()[-3000:]


def _moment_comes(command: Command, process: psutil.Popen, fire: Fire, rng: random.Random) -> bool:
    """Wait for something to begin, and then some random time; now and then only a random time."""
    if rng.randrange(10) < fire.hasty_of_ten:
        time.sleep(rng.uniform(0, HASTE_S))
        return process.poll() is None
    before = command.begun()
    while command.begun() == before:
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    time.sleep(rng.uniform(0, fire.longest_wait_s))
    return process.poll() is None


def _kill_one(fire: Fire, process: psutil.Popen, rng: random.Random) -> list[str]:
    """Kill one of the command's processes, or many of them; which, if there is any."""
    there = {name: processes for name, processes in fire.victims(process, rng).items() if processes}
    chosen = rng.choices([*there], [fire.often[name] for name in there]) if there else []
    for name in chosen:
        kill(there[name])
    return chosen
