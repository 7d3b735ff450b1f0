"""The rules of trying again, the three stages of a harvester, and a cluster whose nodes go and come."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import SaemillError
from tasks.harvest.pool import actor
from tasks.harvest.pool.actor import IN_FLIGHT, Harvester, HarvestJob
from tasks.harvest.pool.tries import Tries
from tasks.harvest.shards import Shard, planned_shards
from tasks.storage.objects import open_store
from tests.harvest.conftest import places, tiny_config, tiny_job
from tests.harvest.kills import write_config
from tests.kills.processes import told
from tests.patience import PATIENCE_S
from tests.turns import kills_a_harvest


def shards(n: int) -> list[Shard]:
    return [Shard("train", f"{i:016x}", i, 1) for i in range(n)]


def taken(tries: Tries, *, idle: bool = True) -> Shard:
    shard = tries.next(idle=idle)
    assert shard is not None
    return shard


def test_every_shard_is_begun_once_and_evals_come_first() -> None:
    held_out = Shard("eval", "f" * 16, 9, 1)
    tries = Tries([held_out, *shards(5)], max_attempts=3)
    begun = [taken(tries) for _ in range(6)]
    assert begun[0] == held_out
    assert set(begun[1:]) == set(shards(5))
    assert tries.next(idle=True) is None


def test_a_shard_that_raises_is_given_up_after_max_attempts_and_the_others_go_on() -> None:
    tries = Tries(shards(2), max_attempts=2)
    bad, good = taken(tries), taken(tries)
    tries.failed(bad, "no")
    tries.done(good)
    assert tries.left == 1
    tries.failed(taken(tries), "still no")
    assert tries.left == 0
    with pytest.raises(
        SaemillError, match=rf"1 of 2 shards were given up.*{bad.name} failed 2 times, at last with: still no"
    ):
        tries.raise_if_given_up()


def test_after_a_death_its_shards_wait_for_the_end_and_for_an_idle_actor() -> None:
    tries = Tries(shards(4), max_attempts=1)
    beside, suspect = taken(tries), taken(tries)
    tries.died([beside, suspect], "gone")
    others = {taken(tries, idle=False), taken(tries, idle=False)}
    assert others == set(shards(4)) - {beside, suspect}
    assert tries.next(idle=False) is None
    assert taken(tries) == beside
    assert tries.suspected(beside)
    assert tries.attempt(beside) == 2


def test_deaths_in_company_never_give_a_shard_up() -> None:
    tries = Tries(shards(2), max_attempts=1)
    for _ in range(100):
        tries.died([taken(tries), taken(tries)], "the node went")
    assert tries.left == 2


def test_a_shard_that_kills_each_actor_alone_is_given_up() -> None:
    tries = Tries(shards(1), max_attempts=2)
    deaths = 0
    while tries.left:
        tries.died([taken(tries)], "killed")
        deaths += 1
    assert deaths == 1 + 3 * 2  # the first death makes it a suspect
    with pytest.raises(SaemillError, match="killed its actor 6 times"):
        tries.raise_if_given_up()


def test_many_given_up_are_counted_and_only_some_named() -> None:
    tries = Tries(shards(8), max_attempts=1)
    for _ in range(8):
        tries.failed(taken(tries), "no")
    with pytest.raises(SaemillError, match=r"8 of 8 shards were given up.*and 3 more. Mend the cause"):
        tries.raise_if_given_up()


@pytest.fixture
def job(tiny_llama: str, tokens_directory: Callable[[str], str], tmp_path: Path) -> HarvestJob:
    return tiny_job(tiny_config(tiny_llama, str(tmp_path)), tokens_directory(str(tmp_path)))


@pytest.fixture
def todo(job: HarvestJob) -> list[Shard]:
    return planned_shards(job.tokens, job.settings.shard_tokens)


@pytest.fixture
def harvester(job: HarvestJob, todo: list[Shard]) -> tuple[Harvester, list[Shard]]:
    return Harvester(job), todo


class Gates:
    """Wraps the stages of a harvester: events say which has begun, and each may be held up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self._changed = threading.Condition()
        self.hold: dict[str, threading.Event] = {}
        for stage, name in (("read", "read_sequences"), ("forward", "forward"), ("write", "commit_shard")):
            monkeypatch.setattr(actor, name, self._gated(stage, getattr(actor, name)))

    def _gated(self, stage: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*arguments: Any, **named: Any) -> Any:
            with self._changed:
                self.begun.append(stage)
                self._changed.notify_all()
            if stage in self.hold:
                assert self.hold[stage].wait(PATIENCE_S)
            return real(*arguments, **named)

        return gated

    def wait_for(self, stage: str, times: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.begun.count(stage) >= times, PATIENCE_S), (stage, times, self.begun)


def test_the_next_shard_is_in_the_model_while_one_is_written_and_one_is_read(
    harvester: tuple[Harvester, list[Shard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, todo = harvester
    gates = Gates(monkeypatch)
    gates.hold = {"write": threading.Event()}
    with ThreadPoolExecutor(len(todo)) as pool:
        done = [pool.submit(worker.harvest, shard, 1) for shard in todo]
        # While the first write is held up, the second shard goes through the model, and the third's tokens are read.
        gates.wait_for("write", 1)
        gates.wait_for("forward", 2)
        gates.wait_for("read", 3)
        at_most = [gates.begun.count(stage) for stage in ("write", "forward", "read")]
        gates.hold["write"].set()
        assert all(future.result(PATIENCE_S).computed for future in done)
    # One is written, one waits behind the model, one before it: nothing piles up, whatever is in flight.
    assert at_most == [1, 2, 3]
    assert IN_FLIGHT == 3


def test_behind_a_gpu_several_shards_are_stored_at_once_and_hold_the_same_bytes(
    job: HarvestJob, todo: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = actor._subject
    monkeypatch.setattr(actor, "_subject", lambda job: load(replace(job, gpus=0)))  # the stages of a GPU, on a CPU
    job, plain = replace(job, gpus=1), replace(job, out=places(str(tmp_path / "plain"))[0])
    worker, gates = Harvester(job), Gates(monkeypatch)
    gates.hold = {"write": threading.Event()}
    with ThreadPoolExecutor(len(todo)) as pool:
        done = [pool.submit(worker.harvest, shard, 1) for shard in todo]
        gates.wait_for("write", 8)
        gates.wait_for("forward", 10)
        gates.wait_for("read", 11)
        at_most = [gates.begun.count(stage) for stage in ("write", "forward", "read")]
        gates.hold["write"].set()
        assert all(future.result(PATIENCE_S).computed for future in done)
    assert at_most == [8, 10, 11]
    assert job.in_flight == 11
    one_by_one = Harvester(plain)
    assert all(one_by_one.harvest(shard, 1).computed for shard in todo)
    assert rows_of(job.out) == rows_of(plain.out)


def test_of_large_shards_fewer_are_stored_at_once(job: HarvestJob) -> None:
    sizes = (0, 2**29, 2**30, 3 * 2**30, 2**40)
    assert [replace(job, gpus=1, shard_bytes=size).in_flight for size in sizes] == [11, 11, 7, 4, 4]
    assert {replace(job, shard_bytes=size).in_flight for size in sizes} == {3}


def rows_of(uri: str) -> dict[str, bytes]:
    store = open_store(uri)
    return {info.key: store.get(info.key) for info in store.list() if not info.key.startswith("commits/")}


def test_a_shard_committed_by_whomever_is_not_computed_again(
    harvester: tuple[Harvester, list[Shard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, todo = harvester
    gates = Gates(monkeypatch)
    assert worker.harvest(todo[0], 1).computed
    assert not worker.harvest(todo[0], 2).computed
    assert gates.begun == ["read", "forward", "write"]


def test_a_stopped_harvester_stores_what_is_through_the_model_and_ends_the_rest(
    harvester: tuple[Harvester, list[Shard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, todo = harvester
    gates = Gates(monkeypatch)
    gates.hold = {"write": threading.Event(), "read": threading.Event()}
    gates.hold["read"].set()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(worker.harvest, todo[0], 1)
        gates.wait_for("write", 1)
        worker.stop()
        second = pool.submit(worker.harvest, todo[1], 1)
        with pytest.raises(SaemillError, match="being stopped"):
            second.result(PATIENCE_S)
        gates.hold["write"].set()
        assert first.result(PATIENCE_S).computed
    assert worker.progress() == {}


def test_progress_counts_the_tokens_of_shards_at_work_only(
    harvester: tuple[Harvester, list[Shard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, todo = harvester
    gates = Gates(monkeypatch)
    gates.hold = {"write": threading.Event()}
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(worker.harvest, todo[0], 1)
        gates.wait_for("write", 1)
        assert worker.progress() == {todo[0].name: todo[0].n_sequences * 8}
        gates.hold["write"].set()
        done.result(PATIENCE_S)
    assert worker.progress() == {}


@kills_a_harvest
@pytest.mark.ray
def test_a_harvest_shrinks_and_grows_with_the_clusters_nodes(tmp_path: Path) -> None:
    """In a process of its own, which must not disturb the tests' cluster."""

    found = told("tests.harvest.nodes", write_config(tmp_path), tmp_path)
    assert found["findings"] == []
    assert found["recomputed"] == []
    assert len(found["nodes"]) == 3, "each node, the one that went and the one that came, has had its part"
