"""Groups of actors that hold a model together: room for them, and what is made of their ends. Without Ray's processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.harvest.pool import ray_actor_pool
from tasks.harvest.pool.actor import HarvestJob
from tasks.harvest.pool.ranks import RankLostError, RanksOutOfMemoryError
from tasks.harvest.pool.ray_actor_pool import Pool, _Lane
from tasks.harvest.pool.room import fitting, fitting_groups
from tasks.harvest.shards import Shard, planned_shards
from tasks.harvest.stage import HarvestStage
from tasks.lm.config import ModelConfig
from tasks.progress import silent
from tasks.ray_config import RayConfig
from tests.harvest.conftest import CONTEXT, tiny_config, tiny_job


def test_a_group_fits_on_one_machine_or_not_at_all() -> None:
    machines = [(16.0, 8.0), (16.0, 3.0), (64.0, 0.0), (3.0, 8.0)]
    assert fitting_groups(machines, 4, 1, 1) == 2
    assert fitting_groups(machines, 2, 1, 1) == 4 + 1 + 1
    assert fitting_groups(machines, 8, 1, 1) == 1
    assert fitting_groups(machines, 4, 1, 0) == 4 + 4 + 16
    assert fitting(0.3, 0, 0.1, 0) == 3


@pytest.fixture
def job(even_llama: str, tokens_directory: Callable[[str], str], tmp_path: Path) -> HarvestJob:
    config, tokens = tiny_config(even_llama, str(tmp_path)), tokens_directory(str(tmp_path))
    return tiny_job(config, tokens, gpus_per_replica=2, actors=None)


@pytest.fixture
def make(job: HarvestJob, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[tuple[float, float]]], Pool]:
    """A pool on a cluster of such machines."""

    def pool(machines: list[tuple[float, float]]) -> Pool:
        monkeypatch.setattr(ray_actor_pool, "cluster_machines", lambda: machines)
        monkeypatch.setattr(ray_actor_pool, "cluster_cpus", lambda: sum(cpus for cpus, _ in machines))
        monkeypatch.setattr(ray_actor_pool, "cluster_gpus", lambda: sum(gpus for _, gpus in machines))
        return Pool(job, planned_shards(job.tokens, job.settings.shard_tokens), silent)

    return pool


def working(pool: Pool) -> tuple[Any, list[Shard]]:
    """A group that is at work on two shards, and those."""
    ended: list[bool] = []
    replica = SimpleNamespace(following=["call"], actor=None, end=lambda: ended.append(True), ended=ended)
    lane: Any = _Lane(replica, None, ready=True)  # type: ignore[arg-type]
    shards = [shard for _ in range(2) if (shard := pool._tries.next(idle=True)) is not None]
    lane.running = dict(enumerate(shards))
    pool._lanes.append(lane)
    return lane, shards


def fallen(cause: Exception) -> Any:
    return SimpleNamespace(cause=cause)


def test_machines_that_are_too_small_for_a_group_are_refused(make: Callable[..., Pool]) -> None:
    with pytest.raises(InputError, match="1 groups of 2 harvest actors need 2 CPUs and 0 GPUs each, on one machine"):
        make([(1.0, 0.0), (1.0, 0.0)])
    assert make([(3.0, 0.0), (4.0, 0.0)])._room == 3


def test_after_a_group_ran_out_of_memory_the_next_has_half_as_many_at_once(make: Callable[..., Pool]) -> None:
    pool = make([(4.0, 0.0)])
    lane, shards = working(pool)
    pool._group_ended(lane, fallen(RanksOutOfMemoryError(8)))
    assert pool._job.at_most == 4
    assert (pool._lanes, lane.replica.ended) == ([], [True])
    again = [pool._tries.next(idle=False) for _ in range(pool._tries.left)]
    assert set(shards) <= set(again)
    assert not any(map(pool._tries.suspected, shards))


def test_a_single_sequence_without_memory_is_told_at_once(make: Callable[..., Pool]) -> None:
    pool = make([(4.0, 0.0)])
    lane, _ = working(pool)
    with pytest.raises(InputError, match="no memory for a forward pass over one sequence of 8 tokens"):
        pool._group_ended(lane, fallen(RanksOutOfMemoryError(1)))


def test_a_group_that_lost_a_process_is_ended_and_its_shards_are_tried_again(make: Callable[..., Pool]) -> None:
    pool = make([(4.0, 0.0)])
    lane, shards = working(pool)
    pool._group_ended(lane, fallen(RankLostError("gone")))
    assert (pool._lanes, lane.replica.ended, pool._job.at_most) == ([], [True], None)
    assert all(map(pool._tries.suspected, shards))
    assert pool._tries.left == len(planned_shards(pool._job.tokens, 32))


def test_more_processes_than_the_local_cluster_has_cpus_are_refused_before_all_else(even_llama: str) -> None:
    config = tiny_config(even_llama, "unused")

    def stage(**settings: int) -> HarvestStage:
        found = config.harvest.model_copy(update={"actors": None, **settings})
        cluster = RayConfig(num_cpus=4)
        return HarvestStage(settings=found, model=config.model, cluster=cluster, context_length=CONTEXT)

    stage(gpus_per_replica=4).check()
    stage(gpus_per_replica=2, actors=2).check()
    with pytest.raises(InputError, match=r"to 1 and harvest.gpus_per_actor to 2"):
        replace(stage(gpus_per_replica=2), model=ModelConfig(name="a", engine="vllm")).check()
    with pytest.raises(InputError, match=r"harvest.gpus_per_replica is 5 with 1 CPUs each, but the local Ray cluster has 4"):
        stage(gpus_per_replica=5).check()
    with pytest.raises(InputError, match=r"harvest.actors is 2 with 3 CPUs each, but the local Ray cluster has 4"):
        stage(gpus_per_replica=3, actors=2).check()


def test_a_model_that_processes_cannot_share_is_refused_before_anything_is_written(tiny_llama: str, tmp_path: Path) -> None:
    config = tiny_config(tiny_llama, str(tmp_path))
    settings = config.harvest.model_copy(update={"gpus_per_replica": 2})
    stage = HarvestStage(settings=settings, model=config.model, context_length=CONTEXT)
    with pytest.raises(InputError, match="must divide the model's num_key_value_heads, of which it has 1"):
        stage.check_inputs(str(tmp_path / "out"), {})
    assert list(tmp_path.iterdir()) == []
