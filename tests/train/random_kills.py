"""SIGKILL at random moments, again and again, until training runs have survived as many as asked for."""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.config import PipelineConfig
from tests.harvest.commands import kill_tree
from tests.patience import PATIENCE_S
from tests.train.conftest import make_run
from tests.train.kills import CONTROLLER, WORKER, Command, kill, titled

logger = logging.getLogger(__name__)

# Workers start in seconds and are what dies most; a command given again costs its whole start.
VICTIMS = {"worker": 8, "all workers": 3, "controller": 4, "command": 1, "everything": 1}
# While it lasts checkpoints are taken, of which Ray Train hears within 2 s; a worker's first step takes a second or more.
LONGEST_WAIT_S = 6.0
# Of ten kills so many come at whatever happens after the last one, mostly a start, rather than in the midst of steps.
HASTY_OF_TEN = 2
STEPS, EVERY = 400, 25
PAUSE_S = 0.02


@dataclass
class Survived:
    """What training runs have gone through, each to the bytes of an undisturbed one."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    commands: int = 0
    attempts: int = 0
    """Times that workers began to take steps."""
    steps: int = 0
    steps_begun: int = 0


def commands(folder: Path, address: str, latent_shards: int = 1) -> Callable[[str], Command]:
    """Makes a command of a name, on the cluster there; all have the same settings."""
    settings = {"tokens": 32 * STEPS, "checkpoint_every_tokens": 32 * EVERY, "max_failures": 100}
    config, activations = make_run(folder, workers=2, latent_shards=latent_shards, **settings)
    joined = on_cluster(config, address)
    return lambda name: Command(joined, activations, f"{folder}/{name}/sae", folder / f"{name}-points", PAUSE_S)


def on_cluster(config: PipelineConfig, address: str) -> PipelineConfig:
    """The configuration, to join a running cluster with."""
    return config.model_copy(update={"ray": config.ray.model_copy(update={"address": address, "num_cpus": None})})


def survive(make: Callable[[str], Command], kills: int, seed: int) -> Survived:
    """Train anew, under fire, until there were so many kills."""
    undisturbed = make("undisturbed")
    assert undisturbed.run() == 0, undisturbed.said()
    survived, rng = Survived(), random.Random(seed)
    while survived.kills.total() < kills:
        command = make(f"run-{survived.runs}")
        _train_under_fire(command, survived, rng, kills)
        command.require_undisturbed(undisturbed)
        assert len(command.checkpoints()) <= command.config.train.keep_checkpoints
        survived.runs += 1
        survived.attempts += len(command.attempts())
        survived.steps += STEPS
        survived.steps_begun += sum(len(steps) for steps in command.attempts())
        logger.info("survived: %s", survived)
    return survived


def _train_under_fire(command: Command, survived: Survived, rng: random.Random, kills: int) -> None:
    """Give the command until it ends by itself."""
    while True:
        process, ended_by = command.start(), ""
        survived.commands += 1
        try:
            while process.poll() is None and ended_by == "":
                if survived.kills.total() < kills and _moment_comes(command, process, rng):
                    victim = _kill_one(process, rng)
                    survived.kills[victim] += 1
                    ended_by = victim if victim in ("command", "everything") else ""
                time.sleep(0.05)
            process.wait(PATIENCE_S)
        finally:
            kill_tree(process)
        if not ended_by:
            assert process.returncode == 0, command.said()
            return


def _moment_comes(command: Command, process: psutil.Popen, rng: random.Random) -> bool:
    """Wait for a step to be taken, and then some random time; now and then only a random time."""
    if rng.randrange(10) < HASTY_OF_TEN:
        time.sleep(rng.uniform(0, 10))
        return process.poll() is None and bool(titled(WORKER))
    before = command.begun()
    while command.begun() == before:
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    time.sleep(rng.uniform(0, LONGEST_WAIT_S))
    return process.poll() is None and bool(titled(WORKER))


def _kill_one(process: psutil.Popen, rng: random.Random) -> str:
    """Kill one of the job's processes, or many of them; say which."""
    workers, controller = titled(WORKER), titled(CONTROLLER)[-1:]
    struck = {
        "worker": [rng.choice(workers)] if workers else [],
        "all workers": workers,
        "controller": controller,
        "command": [process],
        "everything": [process, *controller, *workers],
    }
    there = {victim: often for victim, often in VICTIMS.items() if struck[victim]}
    victim = rng.choices([*there], [*there.values()])[0]
    kill(struck[victim])
    return victim
