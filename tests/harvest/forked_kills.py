"""Kills at each point and at random instants: ``python -m tests.harvest.forked_kills CONFIG FOLDER KILLS SEED``.

A whole harvest, from the plan to the manifest, is one forked process, which is killed wherever it happens to be and forked
again; the Harvester's threads, its commits and the manifest are the real ones, and only Ray is left out, between the plan
and the harvester. Printed is what was survived.
"""

import json
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tasks.text.tokenize  # noqa: F401 - before the forks
from tasks.harvest import ray_harvest
from tasks.harvest.pool.actor import IN_FLIGHT, Harvester, HarvestJob
from tasks.harvest.pool.ray_actor_pool import PoolRun
from tasks.harvest.shards import Shard
from tasks.progress import silent
from tests.composed import harvest, tokenize
from tests.harvest.kill_points import IN_ACTOR, arm_actor, arm_command
from tests.harvest.kills import Command
from tests.kills.forks import ended, fork, killed, survive
from tests.kills.points import Points

POINTS = (*IN_ACTOR, "manifest")
# Of the time that an undisturbed harvest takes; what is committed is kept, so that several lives end one harvest.
LONGEST_LIFE = 0.6


class InThisProcess:
    """Stands in for the pool of Ray actors: one harvester, with as many shards in flight."""

    def __init__(self, job: HarvestJob, pending: list[Shard], *_: object) -> None:
        self._job, self._pending = job, pending

    def run(self) -> PoolRun:
        harvester = Harvester(self._job)
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            for _ in threads.map(harvester.harvest, self._pending, [1] * len(self._pending)):
                pass
        return PoolRun(1.0, [], [])


def start(command: Command, tokens: str) -> int:
    """A process that harvests and ends; its id."""
    command.folder.mkdir(exist_ok=True)
    return fork(_harvest, Points(command.folder), command.config, tokens, command.pool.uri, command.out.uri, silent)


def _harvest(points: Points, *what: Any) -> None:
    arm_actor(points)
    arm_command(points)
    harvest(*what)


def one_life(seconds: float, command: Command, tokens: str) -> int:
    """Start a harvest and kill it after some time; its exit status, negative where the kill came first."""
    pid = start(command, tokens)
    time.sleep(seconds)
    return killed(pid)


def main(config_path: str, folder: str, kills: str, seed: str) -> None:
    """Survive, and print what was survived."""
    ray_harvest.Pool = InThisProcess  # type: ignore[misc,assignment]
    ray_harvest.connect = lambda _: None
    ray_harvest.cluster_gpus = lambda: 0.0

    def make(name: str) -> Command:
        return Command(Path(config_path), f"{folder}/{name}/runs", Path(folder, name))

    undisturbed = make("undisturbed")
    tokens = undisturbed.at.tokens
    assert tokens is not None
    assert ended(fork(tokenize, undisturbed.config, tokens, silent)) == 0
    began = time.monotonic()
    assert ended(start(undisturbed, tokens)) == 0
    longest = LONGEST_LIFE * (time.monotonic() - began)

    at_points = make("at-points")
    survive(at_points, POINTS, lambda: [start(at_points, tokens)])
    at_points.require_undisturbed(undisturbed)

    rng, survived, harvests = random.Random(int(seed)), 0, 0
    while survived < int(kills):
        command = make(f"{harvests}")
        while (code := one_life(rng.uniform(0, longest), command, tokens)) != 0:
            assert code == -signal.SIGKILL, f"it failed by itself, with exit code {code}"
            survived += 1
            command.require_kept()
            longest *= 1.05  # on a machine that has become busier, lives must come to commits all the same
        command.require_undisturbed(undisturbed)
        harvests += 1
        longest *= 0.8
    points = [point for point in POINTS if len(at_points.struck(point)) == 1]
    print(json.dumps({"points": points, "kills": survived, "harvests": harvests}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
