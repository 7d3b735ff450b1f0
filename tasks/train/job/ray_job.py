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
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tasks.errors import InputError, SaemillError
from tasks.progress import Progress
from tasks.ray_cluster import cluster_cpus, cluster_gpus
from tasks.storage.arrow import arrow_filesystem
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import CHECKPOINTS
from tasks.train.config import TrainConfig
from tasks.train.job.ray_lean_trainer import LeanTrainer, LeanTrainerOfItsOwnCluster
from tasks.train.job.stored import drop_unusable_snapshot
from tasks.train.ray_process_group import ProcessGroupConfig
from tasks.train.run_settings import RunSettings

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_RESIZE_S = 30.0
"""Between two looks at whether there is room for more workers, which begin from the last checkpoint."""
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
    if settings.use_gpu and least > cluster_gpus():
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
) -> dict[str, Any]:
    """Run a job of Ray Train in an actor of its own and watch it, so that this process can be interrupted at any time.

    Ray Train's ``fit`` would block and take over SIGINT here. Killing the actor ends Ray Train's controller, which it
    owns, and with that the workers. Neither of the two imports torch, which takes 2.4 s of CPU (Zen 3): what the workers
    do, and what with, goes through both as a reference that only workers follow.

    Args:
        config: how many workers of which size, and how often they are restarted.
        work: what each worker does; of what it returns, the first worker's is the result.
        task: what ``work`` gets, beside ``config``, ``out``, ``folder`` (this process's) and ``job``, the actor.
        out: where Ray Train keeps its own files and checkpoints.
        listener: gets the latest progress of each worker that has told any, by rank.

    Raises:
        InputError, ArtifactError: what a worker refused.
        SaemillError: workers were lost more often than train.max_failures, or it took longer than train.max_hours.
    """
    before = _placement_groups()
    here = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )  # no other machine's loss counts
    job = ray.remote(num_cpus=0, max_concurrency=4, scheduling_strategy=here)(_TrainingJob).remote()
    try:
        task = {**task, "config": config, "out": out, "folder": os.getcwd()}
        done = job.run.remote([ray.put((work, task))], config, out)
        with _checkpoint_when_stopped(job, done):
            return _watched(job, done, listener, config.train.max_hours)
    except ray.exceptions.RayTaskError as error:
        raise _plain(error) from error
    except ray.exceptions.RayActorError as error:
        raise SaemillError(f"The training job was lost ({error}). The same command goes on from its checkpoint.") from error
    finally:
        _end(job)
        _free(_placement_groups() - before)


class _OutOfTimeError(SaemillError):
    """Training has taken as long as it may."""


def _watched(job: Any, done: Any, listener: Callable[[list[Progress]], None], max_hours: float | None) -> dict[str, Any]:
    until = None
    while True:
        ready, _ = ray.wait([done], timeout=_POLL_S)
        progress, refusal, warnings = ray.get(job.news.remote())
        for warning in warnings:
            logger.warning("%s", warning)
        if refusal is not None:
            raise refusal
        if progress:
            until = until or time.monotonic() + 3600 * (max_hours or float("inf"))
            listener(progress)
        if ready:
            result: dict[str, Any] = ray.get(done)
            return result
        if until is not None and time.monotonic() > until:
            raise _OutOfTimeError(
                f"Training has taken train.max_hours ({max_hours:.3g}) and stops with a checkpoint. The same command goes "
                "on from there, for as long again."
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


def _end(job: Any) -> None:
    """Kill the job and then its controller, which Ray would give up to 30 s to leave, in which it starts workers anew."""
    controller = None
    with suppress(ray.exceptions.RayError):  # the job is gone or does not answer
        controller = ray.get(job.controller.remote(), timeout=2)
    ray.kill(job)
    if controller is not None:
        ray.kill(controller)


def _placement_groups() -> set[str]:
    """Hex ids of the reservations that this process holds on the cluster; an id ends with its creator's Ray job."""
    mine = ray.get_runtime_context().get_job_id()
    table = placement_group_table()
    return {group for group, entry in table.items() if group.endswith(mine) and entry["state"] != "REMOVED"}


def _free(groups: set[str]) -> None:
    """Give back what a killed controller had reserved; Ray does it only when this process ends, or with a dashboard."""
    for group in groups:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))


def _plain(error: ray.exceptions.RayTaskError) -> Exception:
    cause = error.cause
    failures = getattr(cause, "worker_failures", {})
    for failure in failures.values():
        if isinstance(failure, SaemillError):
            return failure
    return SaemillError(f"Training stopped: {cause}")


class _TrainingJob:
    """Runs Ray Train, and carries news from the workers to whoever watches."""

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}
        self._is_new = False
        self._refusal: SaemillError | None = None
        self._warnings: list[str] = []
        self._stopping = False
        self._controller: Any = None

    def run(self, todo: list[Any], config: RunSettings, out: str) -> dict[str, Any]:
        """The first worker's result. A controller that is lost is a failure like a lost worker: another one goes on."""
        if config.ray.address is None:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less where no node can go
        part = {"todo": todo, "job": ray.get_runtime_context().current_actor}
        before = _placement_groups()
        failures = 0
        while True:
            try:
                result: dict[str, Any] = _trainer(part, config, out).fit().return_value
            except (ray.exceptions.RayActorError, ray.train.ControllerError) as error:
                if failures >= config.train.max_failures or _lacks_room(error):
                    raise
                failures += 1
                self.warn(f"training: Ray Train's controller was lost ({type(error).__name__}); another goes on")
                _free(_placement_groups() - before)
                drop_unusable_snapshot(out)
            else:
                return result

    def tell(self, progress: Progress, rank: int = 0) -> None:
        self._progress[rank], self._is_new = progress, True

    def refuse(self, error: SaemillError) -> None:
        self._refusal = error

    def warn(self, message: str) -> None:
        self._warnings.append(message)

    def stop(self) -> None:
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping

    def controlled_by(self, controller: Any) -> None:
        self._controller = controller

    def controller(self) -> Any:
        return self._controller

    def news(self) -> tuple[list[Progress], SaemillError | None, list[str]]:
        """The latest progress of all workers and the warnings, once, and the error that no restart would cure."""
        progress = [self._progress[rank] for rank in sorted(self._progress)] if self._is_new else []
        self._is_new = False
        warnings, self._warnings = self._warnings, []
        return progress, self._refusal, warnings


def _do(part: dict[str, Any]) -> dict[str, Any]:
    """In a worker: its part of the work."""
    work, task = ray.get(part["todo"][0])
    done: dict[str, Any] = work({**task, "job": part["job"]})
    return done


def _trainer(part: dict[str, Any], config: RunSettings, out: str) -> LeanTrainer:
    settings, is_own = config.train, config.ray.address is None
    path, filesystem = arrow_filesystem(open_store(out))
    return (LeanTrainerOfItsOwnCluster if is_own else LeanTrainer)(
        _do,
        train_loop_config=part,
        backend_config=ProcessGroupConfig("nccl" if settings.use_gpu else "gloo", is_one_machine=is_own),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers if settings.min_workers is None else (settings.min_workers, settings.workers),
            elastic_resize_monitor_interval_s=_RESIZE_S,
            use_gpu=settings.use_gpu,
            resources_per_worker={"CPU": settings.cpus_per_worker} | ({"GPU": 1} if settings.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=settings.max_failures,
                # Workers that die while they start count here; it takes a minute to find that there is no room for them.
                controller_failure_limit=max(3, settings.max_failures),
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=settings.keep_checkpoints),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            callbacks=[_NoLongGoodbye(), _TellsWhoItIs(part["job"])],
        ),
    )


class _NoLongGoodbye(ray.train.UserCallback):  # type: ignore[misc] # Ray is not typed
    """After a worker was lost the others are killed, without 30 s in which to take leave of it."""

    def after_exception(self, run_context: object, worker_exceptions: object) -> None:
        os.environ["TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"] = "1"  # read by Ray Train's controller, where this runs


class _TellsWhoItIs(ControllerCallback):  # type: ignore[misc] # Ray is not typed
    """Makes Ray Train's controller known to the job, so that it can be killed with it."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def after_controller_start(self, train_run_context: object) -> None:
        ray.get(self._job.controlled_by.remote(ray.get_runtime_context().current_actor))


def _lacks_room(error: Exception) -> bool:
    """Whether there was no room for the workers, again and again."""
    return type(getattr(error, "controller_failure", None)).__name__ == "WorkerGroupStartupTimeoutError"


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
