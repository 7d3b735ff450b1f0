"""Training on a Ray cluster: Ray Train runs the workers, restarts them from checkpoints, and keeps those on storage."""

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from tasks.artifacts import read_manifest
from tasks.config import PipelineConfig
from tasks.errors import ArtifactError, InputError, SaemillError
from tasks.on_ray import cluster_cpus, cluster_gpus, connect
from tasks.progress import Listener, Progress
from tasks.sae.exchange import Alone, Exchange
from tasks.store.objects import open_store, s3_filesystem
from tasks.train.curve import is_spike, spike_told
from tasks.train.distributed import TorchExchange
from tasks.train.finish import close
from tasks.train.loggers import open_loggers
from tasks.train.loop import Run, StoppedError, ignore
from tasks.train.mixing import tell_mixing
from tasks.train.state import checkpoint_name, run_to_files
from tasks.train.worker import CHECKPOINTS, Worker

logger = logging.getLogger(__name__)

_SNAPSHOT = f"{CHECKPOINTS}/checkpoint_manager_snapshot.json"
_POLL_S = 0.5
STOP_S = 20.0
"""How long a job that is told to stop may take to write a checkpoint; Prefect and Kubernetes send SIGKILL after 30 s."""
_TELL_S = 1.0


def train(config: PipelineConfig, activations: str, out: str, listener: Listener, tokens: str | None = None) -> None:
    """Train the SAE of ``config`` on ``activations`` and write it below ``out``; nothing happens where it is finished.

    A run that was killed goes on from its newest checkpoint below ``out``. ``tokens``, where there are any, tell which
    document each row is from, so that it can be said how well batches are mixed.

    Raises:
        InputError: the cluster is too small, settings disagree with the activations, or the loss is not finite.
        ArtifactError: the activations are unfinished or damaged.
        SaemillError: workers were lost more often than train.max_failures.
    """
    if read_manifest(out) is not None:
        return
    started = time.perf_counter()
    connect(config.ray)
    check_room(config)
    tell_mixing(config, activations, tokens, out)
    drop_unusable_snapshot(out)
    finished = supervise(config, _work, {"activations": activations}, out, lambda told: listener(told[0]))
    timing = {"seconds": time.perf_counter() - started, "workers": config.train.workers} | finished.pop("timing")
    close(config, activations, out, finished, timing)


def check_room(config: PipelineConfig) -> None:
    """Refuse workers that do not fit the cluster, for which Ray Train would wait for ever.

    Raises:
        InputError: there are fewer CPUs or GPUs than the workers want.
    """
    settings = config.train
    wanted, there = settings.workers * settings.cpus_per_worker, cluster_cpus()
    if wanted > there:
        raise InputError(
            f"train.workers is {settings.workers} with {settings.cpus_per_worker:g} CPUs each (train.cpus_per_worker), "
            f"but the Ray cluster has {there:g} CPUs. Lower one of them, or raise ray.num_cpus."
        )
    if settings.use_gpu and settings.workers > cluster_gpus():
        raise InputError(
            f"train.use_gpu is on and train.workers is {settings.workers}, but the Ray cluster has {cluster_gpus():g} GPUs. "
            "Lower train.workers or turn train.use_gpu off."
        )


def supervise(
    config: PipelineConfig,
    work: Callable[[dict[str, Any]], dict[str, Any]],
    task: dict[str, Any],
    out: str,
    listener: Callable[[list[Progress]], None],
) -> dict[str, Any]:
    """Run a job of Ray Train in an actor of its own and watch it, so that this process can be interrupted at any time.

    ``TorchTrainer.fit`` would block and take over SIGINT here. Killing the actor ends Ray Train's controller, which it
    owns, and with that the workers.

    Args:
        config: how many workers of which size, and how often they are restarted.
        work: what each worker does; of what it returns, the first worker's is the result.
        task: what ``work`` gets, beside ``config``, ``out``, ``folder`` (this process's) and ``job``, the actor.
        out: where Ray Train keeps its own files and checkpoints.
        listener: gets the latest progress of each worker that has told any, by rank.

    Raises:
        InputError, ArtifactError: what a worker refused.
        SaemillError: workers were lost more often than train.max_failures.
    """
    before = _placement_groups()
    job = ray.remote(num_cpus=0, max_concurrency=4)(_Job).remote()
    try:
        done = job.run.remote(work, {**task, "config": config, "out": out, "folder": os.getcwd()})
        with _checkpoint_when_stopped(job, done):
            return _watched(job, done, listener)
    except ray.exceptions.RayTaskError as error:
        raise _plain(error) from error
    except ray.exceptions.RayActorError as error:
        raise SaemillError(f"The training job was lost ({error}). The same command goes on from its checkpoint.") from error
    finally:
        ray.kill(job)
        _free(_placement_groups() - before)


def _watched(job: Any, done: Any, listener: Callable[[list[Progress]], None]) -> dict[str, Any]:
    while True:
        ready, _ = ray.wait([done], timeout=_POLL_S)
        progress, refusal, warnings = ray.get(job.news.remote())
        for warning in warnings:
            logger.warning("%s", warning)
        if refusal is not None:
            raise refusal
        if progress:
            listener(progress)
        if ready:
            result: dict[str, Any] = ray.get(done)
            return result


@contextmanager
def _checkpoint_when_stopped(job: Any, done: Any) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if _is_signal(error):
            logger.warning("training: told to stop; a checkpoint is taken first, within %d s", STOP_S)
            job.stop.remote()
            ray.wait([done], timeout=STOP_S)
        raise


def _is_signal(error: BaseException) -> bool:
    """Whether someone wants this process to end: Ctrl-C, SIGTERM, a Prefect cancellation."""
    cause = error.__cause__ if isinstance(error, SystemError) else error  # as flows/pipeline.py has it
    return cause is not None and not isinstance(cause, Exception)


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


class _Job:
    """Runs Ray Train, and carries news from the workers to whoever watches."""

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}
        self._is_new = False
        self._refusal: SaemillError | None = None
        self._warnings: list[str] = []
        self._stopping = False

    def run(self, work: Callable[[dict[str, Any]], dict[str, Any]], task: dict[str, Any]) -> dict[str, Any]:
        config, settings = task["config"], task["config"].train
        if config.ray.address is None:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less where no node can go
        me = ray.get_runtime_context().current_actor
        path, filesystem = _storage(task["out"])
        trainer = TorchTrainer(
            work,
            train_loop_config={**task, "job": me},
            torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo", timeout_s=600),
            scaling_config=ray.train.ScalingConfig(
                num_workers=settings.workers,
                use_gpu=settings.use_gpu,
                resources_per_worker={"CPU": settings.cpus_per_worker} | ({"GPU": 1} if settings.use_gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                name=CHECKPOINTS,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=settings.max_failures, controller_failure_limit=3),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=settings.keep_checkpoints),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        result: dict[str, Any] = trainer.fit().return_value
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

    def news(self) -> tuple[list[Progress], SaemillError | None, list[str]]:
        """The latest progress of all workers and the warnings, once, and the error that no restart would cure."""
        progress = [self._progress[rank] for rank in sorted(self._progress)] if self._is_new else []
        self._is_new = False
        warnings, self._warnings = self._warnings, []
        return progress, self._refusal, warnings


def _work(task: dict[str, Any]) -> dict[str, Any]:
    """One worker's part; rank 0 writes the finished SAE and returns what the manifest says about it."""
    config, job = task["config"], task["job"]
    context = ray.train.get_context()
    rank, device = context.get_world_rank(), str(ray.train.torch.get_device())
    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    exchange = TorchExchange(config.train.latent_shards) if context.get_world_size() > 1 else Alone()
    try:
        worker = Worker(config, task["activations"], task["out"], exchange, device)
        with _listener(task, worker, rank) as on_row, told_to_stop(job) if rank == 0 else nullcontext(_never) as stopping:
            run = worker.train(on_row, partial(_report, exchange=exchange), stopping)
            found = worker.finish(run)
            return found | {"timing": worker.accounts(run)} if rank == 0 else {}
    except StoppedError:
        return {}
    except (InputError, ArtifactError) as error:  # a restart would not help
        ray.get(job.refuse.remote(error))
        raise


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


def _never() -> bool:
    return False


@contextmanager
def _listener(task: dict[str, Any], worker: Worker, rank: int) -> Iterator[Callable[[Run], None]]:
    """Who hears of the curve's rows: at rank 0 the job and the loggers, else nobody."""
    if rank != 0:
        yield ignore
        return
    tell = _Teller(task["config"], task["job"])
    with open_loggers(task["config"], worker.plan, task["out"], task["folder"], task["job"].warn.remote) as log:

        def on_row(run: Run) -> None:
            tell(run)
            log(run)
            if is_spike(run.curve):
                task["job"].warn.remote(spike_told(run.curve))

        yield on_row


class _Teller:
    """Tells the job how far training is, at most once a second."""

    def __init__(self, config: PipelineConfig, job: Any) -> None:
        self._total = config.train.tokens
        self._job = job
        self._first: tuple[float, int] | None = None
        self._told = 0.0

    def __call__(self, run: Run) -> None:
        now, row, spent = time.monotonic(), run.curve[-1], run.spent
        done = min(row.tokens, self._total)
        self._first = self._first or (now, done)
        if now - self._told < _TELL_S and done < self._total:
            return
        self._told = now
        since, rows = now - self._first[0], done - self._first[1]
        numbers = {name: getattr(row, name) for name in ("loss", "fvu", "l0", "dead_fraction", "lr")}
        rate = rows / since if since > 0 else None
        numbers["waiting"] = spent.waiting / spent.seconds
        self._job.tell.remote(Progress("train", done, self._total, per_second=rate, numbers=numbers))


def _report(run: Run, exchange: Exchange) -> None:
    """Hand a checkpoint to Ray Train, each part of the latents by one worker; a barrier, so all come at the same steps."""
    metrics = {"step": run.state.step}
    if exchange.rank != 0:
        ray.train.report(metrics, checkpoint_dir_name=checkpoint_name(run.state.step))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, data in run_to_files(run, exchange.latents).items():
            Path(folder, name).write_bytes(data)
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=checkpoint_name(run.state.step))


def _storage(out: str) -> tuple[str, pyarrow.fs.FileSystem | None]:
    uri = open_store(out).uri
    if not uri.startswith("s3://"):
        return uri, None
    return uri.removeprefix("s3://"), pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(s3_filesystem()))


def drop_unusable_snapshot(out: str) -> None:
    """Remove Ray Train's list of checkpoints where a kill cut it short or it names what is gone.

    Ray writes it in place and refuses to start over a damaged one. Checkpoints are found without it.
    """
    store = open_store(out)
    try:
        snapshot = json.loads(store.get(_SNAPSHOT))
        names = [result["checkpoint_dir_name"] for result in snapshot["checkpoint_results"]]
        usable = snapshot["ray_version"] == ray.__version__ and all(
            any(store.list(f"{CHECKPOINTS}/{name}/")) for name in names
        )
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        store.delete(_SNAPSHOT)
