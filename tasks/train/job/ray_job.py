"""A job of Ray Train in an actor of its own, watched: restarted, stopped with a checkpoint, and leaving nothing behind."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
import ray.train
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tasks.errors import InputError, SaemillError
from tasks.progress import Progress
from tasks.ray_cluster import cluster_cpus, cluster_gpus
from tasks.train.config import TrainConfig
from tasks.train.job.ray_training_job import CONCURRENCY, TrainingJob
from tasks.train.job.stored import drop_unusable_snapshot
from tasks.train.run_settings import RunSettings

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_GONE_S = 10.0
"""How long to wait for the end of a killed job, which takes milliseconds where its machine answers."""
STOP_S = 20.0
"""How long a job that is told to stop may take to write a checkpoint; Prefect and Kubernetes send SIGKILL after 30 s."""


def check_room(settings: TrainConfig) -> None:
    """Refuse workers that do not fit the cluster, for which Ray Train would wait for ever.

    Raises:
        InputError: there are fewer CPUs or GPUs than the workers want.
    """
    least = settings.least_workers
    name = "train.workers" if settings.min_workers is None else "train.min_workers"
    wanted, there = least * settings.cpus_per_worker, cluster_cpus()
    if wanted > there:
        raise InputError(
            f"{name} is {least} with {settings.cpus_per_worker:g} CPUs each (train.cpus_per_worker), "
            f"but the Ray cluster has {there:g} CPUs. Lower one of them, or raise ray.num_cpus."
        )
    if settings.on_gpus and least > cluster_gpus():
        raise InputError(
            f"train.use_gpu is on and {name} is {least}, but the Ray cluster has {cluster_gpus():g} GPUs. "
            f"Lower {name} or turn train.use_gpu off."
        )


def supervise(
    config: RunSettings,
    work: Callable[[dict[str, Any]], dict[str, Any]],
    task: dict[str, Any],
    out: str,
    listener: Callable[[list[Progress]], None],
    look: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run a job of Ray Train in an actor of its own and watch it, so that this process can be interrupted at any time.

    Ray Train's ``fit`` would block and take over SIGINT here. The actor is Ray Train's controller, which owns the workers:
    they end with it. A controller that is lost is a failure like a lost worker: another one goes on. It imports no torch,
    which takes 2.4 s of CPU (Zen 3): what the workers do, and what with, goes through it as a reference that only workers
    follow.

    Args:
        config: how many workers of which size, and how often they are restarted.
        work: what each worker does; of what it returns, the first worker's is the result.
        task: what ``work`` gets, beside ``config``, ``out``, ``folder`` (this process's) and ``job``, the actor.
        out: where Ray Train keeps its own files and checkpoints.
        listener: gets the latest progress of each worker that has told any, by rank.
        look: is called some times a second; what it raises ends the job.

    Raises:
        InputError, ArtifactError: what a worker refused.
        SaemillError: workers were lost more often than train.max_failures, or it took longer than train.max_hours.
    """
    before = _placement_groups()
    task = {**task, "config": config, "out": out, "folder": os.getcwd()}
    todo = [ray.put((work, task))]
    watch = _Watching(listener, config.train.max_hours, look)
    failures = 0
    while True:
        job = _job_on_this_machine()
        try:
            done = job.work.remote(todo, config, out)
            with _checkpoint_when_stopped(job, done):
                return watch.until_done(job, done)
        except (ray.exceptions.RayTaskError, ray.exceptions.RayActorError) as error:
            if failures >= config.train.max_failures or not _is_lost(error):
                raise _plain(error) from error
            failures += 1
            logger.warning("training: Ray Train's controller was lost (%s); another goes on", type(error).__name__)
        finally:
            _kill(job)
            _free(_placement_groups() - before)
        drop_unusable_snapshot(out)


def _job_on_this_machine() -> Any:
    """A job whose loss means that this machine is lost too."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, concurrency_groups=CONCURRENCY, scheduling_strategy=here)(TrainingJob).remote()


class _OutOfTimeError(SaemillError):
    """Training has taken as long as it may."""


class _Watching:
    """Watches jobs, one after another where one is lost, until the work is done or has taken too long."""

    def __init__(
        self, listener: Callable[[list[Progress]], None], max_hours: float | None, look: Callable[[], None]
    ) -> None:
        self._listener, self._look = listener, look
        self._max_hours = max_hours
        self._until: float | None = None

    def until_done(self, job: Any, done: Any) -> dict[str, Any]:
        """The job's result.

        Raises:
            SaemillError: a worker's refusal; or time is up, since the first progress of any job.
        """
        while True:
            ready, _ = ray.wait([done], timeout=_POLL_S)
            self._look()
            progress, refusal, warnings = ray.get(job.news.remote())
            for warning in warnings:
                logger.warning("%s", warning)
            if refusal is not None:
                raise refusal
            if progress:
                self._until = self._until or time.monotonic() + 3600 * (self._max_hours or float("inf"))
                self._listener(progress)
            if ready:
                result: dict[str, Any] = ray.get(done)
                return result
            if self._until is not None and time.monotonic() > self._until:
                raise _OutOfTimeError(
                    f"Training has taken train.max_hours ({self._max_hours:.3g}) and stops with a checkpoint. The same "
                    "command goes on from there, for as long again."
                )


@contextmanager
def _checkpoint_when_stopped(job: Any, done: Any) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if _is_signal(error) or isinstance(error, _OutOfTimeError):
            logger.warning("training: told to stop; a checkpoint is taken first, within %d s", STOP_S)
            job.stop.remote()
            ray.wait([done], timeout=STOP_S)
        raise


def _is_signal(error: BaseException) -> bool:
    """Whether someone wants this process to end: Ctrl-C, SIGTERM, a Prefect cancellation."""
    cause = error.__cause__ if isinstance(error, SystemError) else error  # as flows/pipeline.py has it
    return cause is not None and not isinstance(cause, Exception)


def _kill(job: Any) -> None:
    """Kill the job, and with it its workers, and wait until it can reserve nothing any more.

    Left to itself, Ray would give it up to 30 s, in which it starts workers anew.
    """
    ray.kill(job)
    until = time.monotonic() + _GONE_S
    while time.monotonic() < until:
        try:
            ray.get(job.stopping.remote(), timeout=1)
        except ray.exceptions.GetTimeoutError:
            continue
        except ray.exceptions.RayError:
            return


def _placement_groups() -> set[str]:
    """Hex ids of the reservations that this process holds on the cluster; an id ends with its creator's Ray job."""
    mine = ray.get_runtime_context().get_job_id()
    table = placement_group_table()
    return {group for group, entry in table.items() if group.endswith(mine) and entry["state"] != "REMOVED"}


def _free(groups: set[str]) -> None:
    """Give back what a killed controller had reserved; Ray does it only when this process ends, or with a dashboard."""
    for group in groups:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))


def _is_lost(error: Exception) -> bool:
    """Whether Ray Train itself was killed or failed; where there is no room for workers, another try fares no better."""
    if isinstance(error, ray.exceptions.RayActorError):
        return True
    cause = getattr(error, "cause", None)
    lacks_room = type(getattr(cause, "controller_failure", None)).__name__ == "WorkerGroupStartupTimeoutError"
    return isinstance(cause, ray.train.ControllerError) and not lacks_room


def _plain(error: Exception) -> Exception:
    if isinstance(error, ray.exceptions.RayActorError):
        return SaemillError(f"The training job was lost ({error}). The same command goes on from its checkpoint.")
    cause = getattr(error, "cause", error)
    failures = getattr(cause, "worker_failures", {})
    for failure in failures.values():
        if isinstance(failure, SaemillError):
            return failure
    return SaemillError(f"Training stopped: {cause}")


@contextmanager
def told_to_stop(job: Any) -> Iterator[Callable[[], bool]]:
    """Says whether the job has been told to stop; asks it from a thread, so that a step does not wait for the answer."""
    stop, ended = threading.Event(), threading.Event()

    def watch() -> None:
        with suppress(ray.exceptions.RayError):  # the job is gone, and this worker will be
            while not ended.wait(_POLL_S) and not stop.is_set():
                if ray.get(job.stopping.remote()):
                    stop.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield stop.is_set
    finally:
        ended.set()
        thread.join()
