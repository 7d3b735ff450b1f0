"""Kills in the midst of a harvest: it goes on by itself to the manifest of an undisturbed one."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tasks.progress import silent
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tests.composed import harvest
from tests.conftest import s3_server
from tests.harvest.conftest import Harvested, places, tiny_config
from tests.kills.processes import HARVESTER, titled
from tests.patience import until
from tests.turns import kills_a_harvest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SHARDS = 12
SERVER_AWAY_S = 20.0


def commits(store: ObjectStore) -> int:
    return sum(1 for _ in store.list("commits/"))


@kills_a_harvest
def test_an_actor_killed_while_it_harvests_is_replaced(harvested: Harvested, tmp_path: Path) -> None:
    before = {process.pid for process in titled(HARVESTER)}
    config = tiny_config(harvested.config.model.name, str(tmp_path))
    shards, out = places(str(tmp_path))
    store = open_store(shards)

    def kill() -> tuple[int, int]:
        until(lambda: {process.pid for process in titled(HARVESTER)} - before, "an actor")
        [pid] = {process.pid for process in titled(HARVESTER)} - before
        until(lambda: commits(store), "a commit")
        os.kill(pid, signal.SIGKILL)
        return pid, commits(store)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        harvest(config, harvested.tokens, shards, out, silent)
    pid, committed = killed.result()
    assert committed < SHARDS, "killed too late to show anything"
    assert not psutil.pid_exists(pid)
    assert open_store(out).get("manifest.json") == open_store(harvested.out).get("manifest.json")


@pytest.mark.s3
@kills_a_harvest
def test_a_harvest_outlasts_an_s3_server_that_is_killed_and_restarted(
    harvested: Harvested, s3: str, s3_process: s3_server, tokens_directory: Callable[[str], str]
) -> None:
    config = tiny_config(harvested.config.model.name, f"{s3}/killed")
    tokens = tokens_directory(config.storage)
    shards, out = places(config.storage)
    store = open_store(shards)

    def interrupt() -> float:
        until(lambda: commits(store), "a commit")
        s3_process.stop()
        try:
            time.sleep(SERVER_AWAY_S)
        finally:
            s3_process.start()
        return time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        interrupted = pool.submit(interrupt)
        harvest(config, tokens, shards, out, silent)
        ended = time.monotonic()
    assert ended > interrupted.result(), "interrupted too late to show anything"
    assert open_store(out).get("manifest.json") == open_store(harvested.out).get("manifest.json")
