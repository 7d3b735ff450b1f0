"""Kills at each point and at random instants: ``python -m tests.harvest.forked_kills MODEL FOLDER KILLS SEED``.

A process that imports torch takes seconds to replace, a fork of one takes none. So here a whole harvest, from the plan to
the manifest, is one forked process, which is killed wherever it happens to be and forked again; the Harvester's threads,
its commits and the manifest are the real ones, and only Ray is left out, between the plan and the harvester.
"""

import json
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import transformers  # noqa: F401 - before the fork
from transformers import LlamaForCausalLM  # noqa: F401 - likewise

from flows.config import PipelineConfig
from tasks.harvest import ray_harvest
from tasks.harvest.pool.actor import IN_FLIGHT, Harvester, HarvestJob
from tasks.harvest.shards import Shard
from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.storage.objects import open_store
from tests.composed import harvest
from tests.harvest import kill_points
from tests.harvest.conftest import places, tiny_config

# Of the time that an undisturbed harvest takes; what is committed is kept, so that several lives end one harvest.
LONGEST_LIFE = 0.6
# By which a forward pass may seem to begin late: clocks of file systems are coarse.
CLOCK_S = 0.05


class InThisProcess:
    """Stands in for the pool of Ray actors: one harvester, with as many shards in flight."""

    def __init__(self, job: HarvestJob, pending: list[Shard], *_: object) -> None:
        self._job, self._pending = job, pending

    def run(self) -> float:
        harvester = Harvester(self._job)
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            for _ in threads.map(harvester.harvest, self._pending, [1] * len(self._pending)):
                pass
        return 1.0


def fork(config: PipelineConfig, tokens: str, shards: str, out: str, *, armed: bool = False) -> int:
    """A process that harvests and ends, where kill points are armed if it is said so; its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        if armed:
            kill_points.arm()
            kill_points.arm_command()
        harvest(config, tokens, shards, out, silent)
        code = 0
    finally:
        os._exit(code)


def one_life(seconds: float, *work: Any) -> int:
    """Fork a harvest and kill it after some time; its exit status, negative where the kill came first."""
    pid = fork(*work)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return ended(pid)


def at_each_point(folder: Path, config: PipelineConfig, tokens: str, undisturbed: bytes) -> list[str]:
    """Harvest in as many lives as there are points, each of which ends one; the points."""
    points = (*kill_points.IN_ACTOR, "manifest")
    folder.mkdir()
    os.environ[kill_points.FOLDER] = str(folder)
    for point in points:
        (folder / point).touch()
    shards, out = places(str(folder))
    kept: dict[str, tuple[bytes, float]] = {}
    while (code := ended(fork(config, tokens, shards, out, armed=True))) != 0:
        assert code == -signal.SIGKILL, f"it failed by itself, with exit code {code}"
        kept = require_kept(shards, kept)
    committed = require_kept(shards, kept)
    assert open_store(out).get("manifest.json") == undisturbed
    assert verify(out, silent).findings == []
    for line in (folder / "computed.jsonl").read_text().splitlines():
        one = json.loads(line)
        assert one["began"] <= committed[f"commits/{one['shard']}.json"][1] + CLOCK_S, "computed after its commit"
    return [point for point in points if len([*folder.glob(f"{point}.struck-*")]) == 1]


def ended(pid: int) -> int:
    """Wait for a process; its exit status, negative where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(model: str, folder: str, kills: str, seed: str) -> None:
    """Survive, and print what was survived."""
    ray_harvest.Pool = InThisProcess  # type: ignore[misc,assignment]
    ray_harvest.connect = lambda _: None
    ray_harvest.cluster_gpus = lambda: 0.0
    rng = random.Random(int(seed))
    survived, harvests = 0, 0
    config = tiny_config(model, folder)
    config = config.model_copy(update={"harvest": config.harvest.model_copy(update={"shard_tokens": 8})})
    [tokens] = Path(folder, "tokens").iterdir()
    shards, out = places(f"{folder}/undisturbed")
    began = time.monotonic()
    assert ended(fork(config, str(tokens), shards, out)) == 0
    longest = LONGEST_LIFE * (time.monotonic() - began)
    undisturbed = open_store(out).get("manifest.json")
    points = at_each_point(Path(folder, "at-points"), config, str(tokens), undisturbed)
    while survived < int(kills):
        shards, out = places(f"{folder}/{harvests}")
        kept: dict[str, tuple[bytes, float]] = {}
        while (code := one_life(rng.uniform(0, longest), config, str(tokens), shards, out)) != 0:
            assert code == -signal.SIGKILL, f"it failed by itself, with exit code {code}"
            survived += 1
            kept = require_kept(shards, kept)
            longest *= 1.05  # on a machine that has become busier, lives must come to commits all the same
        require_kept(shards, kept)
        assert open_store(out).get("manifest.json") == undisturbed
        assert verify(out, silent).findings == []
        harvests += 1
        longest *= 0.8
    print(json.dumps({"points": points, "kills": survived, "harvests": harvests}))  # noqa: T201


def require_kept(shards: str, kept: dict[str, tuple[bytes, float]]) -> dict[str, tuple[bytes, float]]:
    """The commit records now; those that were there before are the very same."""
    store = open_store(shards)
    now = {info.key: (store.get(info.key), info.modified) for info in store.list("commits/")}
    assert {key: now[key] for key in kept} == kept, "a commit record was written twice"
    return now


if __name__ == "__main__":
    main(*sys.argv[1:])
