"""SIGKILL at random moments, again and again, until harvests have survived as many as asked for."""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.harvest.commands import Command, kill_tree

# Actors start in seconds and are what dies most; a command given again costs its whole start.
VICTIMS = {"actor": 10, "command": 1, "tree": 1}
# While it lasts, about a dozen shards are stored by an actor that is at work.
LONGEST_WAIT_S = 0.5


@dataclass
class Survived:
    """What harvests have gone through, each to the manifest of an undisturbed one."""

    kills: Counter[str] = field(default_factory=Counter)
    harvests: int = 0
    commands: int = 0
    shards: int = 0
    forward_passes: int = 0


def survive(undisturbed: Command, folder: Path, settings: Mapping[str, object], kills: int, seed: int) -> Survived:
    """Harvest anew, under fire, until there were so many kills."""
    survived, rng = Survived(), random.Random(seed)
    while survived.kills.total() < kills:
        here = folder / f"{survived.harvests}"
        here.mkdir()
        command = Command(undisturbed.config_path, str(here / "runs"), here, dict(settings))
        _harvest_under_fire(command, survived, rng, kills)
        command.require_exactly_once(undisturbed.manifest())
        survived.harvests += 1
        survived.shards += len(command.commits())
        survived.forward_passes += len(command.computed())
    return survived


def _harvest_under_fire(command: Command, survived: Survived, rng: random.Random, kills: int) -> None:
    """Give the command until it ends by itself; nothing that was committed before a kill may change."""
    kept: dict[str, tuple[bytes, float]] = {}
    ended = False
    while not ended:
        process = command.start()
        survived.commands += 1
        try:
            while process.poll() is None:
                if survived.kills.total() < kills and _work_goes_on(command, process, rng):
                    survived.kills[_kill_one(process, rng)] += 1
                time.sleep(0.05)
        finally:
            kill_tree(process)
        now = command.commits()
        assert {key: now[key] for key in kept} == kept, "a commit record was written twice"
        kept = now
        ended = process.returncode == 0
        assert process.returncode in (0, -9), command.said()[-3000:]


def _work_goes_on(command: Command, process: psutil.Popen, rng: random.Random) -> bool:
    """Wait for a forward pass or a commit to happen, and then some random time."""
    before = (len(command.computed()), _count(command))
    while (len(command.computed()), _count(command)) == before:
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    time.sleep(rng.uniform(0, LONGEST_WAIT_S))
    return process.poll() is None


def _count(command: Command) -> int:
    return sum(1 for _ in command.pool.list("commits/"))


def _kill_one(process: psutil.Popen, rng: random.Random) -> str:
    """Kill an actor, the command, or the command and its actors; say which."""
    actors = harvesters()
    victim = rng.choices([*VICTIMS], [*VICTIMS.values()])[0] if actors else "command"
    struck = {"actor": [rng.choice(actors)] if actors else [], "command": [process], "tree": [process, *actors]}[victim]
    for one in struck:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    return victim


def harvesters() -> list[psutil.Process]:
    """This process's cluster's harvest actors, which Ray titles so; some are still loading their model."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::Harvester" in " ".join(process.cmdline()):
                found.append(process)
    return found
