"""Training runs whose workers, controllers and commands are killed at random moments."""

import random
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.kills import at_random
from tests.kills.at_random import Fire, Survived, Victims
from tests.kills.processes import CONTROLLER, WORKER, titled
from tests.train.kills import Command, make_commands


def _victims(command: psutil.Popen, rng: random.Random) -> Victims:
    workers, controller = titled(WORKER), titled(CONTROLLER)[-1:]
    if not workers:
        return {}
    return {
        "worker": [rng.choice(workers)],
        "all workers": workers,
        "controller": controller,
        "command": [command],
        "everything": [command, *controller, *workers],
    }


# Workers start in seconds and are what dies most; a command given again costs its whole start. While the longest wait lasts
# checkpoints are taken, of which Ray Train hears within 2 s; a worker's first step takes a second or more.
OFTEN = {"worker": 8, "all workers": 3, "controller": 4, "command": 1, "everything": 1}
FIRE = Fire(_victims, OFTEN, longest_wait_s=6.0, hasty_of_ten=2)


def commands(folder: Path, address: str, latent_shards: int = 1) -> Callable[[str], Command]:
    """Makes a command of a name, on the cluster there; all have the same settings."""
    return make_commands(folder, address, 400, 25, pause_s=0.02, latent_shards=latent_shards, max_failures=100)


def survive(make: Callable[[str], Command], kills: int, seed: int) -> Survived:
    """Train anew, under fire, until there were so many kills."""
    undisturbed = make("undisturbed")
    assert undisturbed.run() == 0, undisturbed.said()
    return at_random.survive(make, undisturbed, FIRE, kills, seed)
