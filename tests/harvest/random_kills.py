"""Harvests whose actors and commands are killed at random moments."""

import random
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.harvest.kills import Command
from tests.kills import at_random
from tests.kills.at_random import Fire, Survived, Victims
from tests.kills.processes import HARVESTER, titled


def _victims(command: psutil.Popen, rng: random.Random) -> Victims:
    actors = titled(HARVESTER)
    return {"actor": actors and [rng.choice(actors)], "command": [command], "tree": [command, *actors]}


# Actors start in seconds and are what dies most; a command given again costs its whole start. While the longest wait lasts,
# about a dozen shards are stored by an actor that is at work.
FIRE = Fire(_victims, {"actor": 10, "command": 1, "tree": 1}, longest_wait_s=0.5)


def survive(undisturbed: Command, folder: Path, settings: Mapping[str, object], kills: int, seed: int) -> Survived:
    """Harvest anew, under fire, until there were so many kills."""

    def make(name: str) -> Command:
        return Command(undisturbed.config_path, f"{folder}/{name}/runs", folder / name, dict(settings))

    return at_random.survive(make, undisturbed, FIRE, kills, seed)
