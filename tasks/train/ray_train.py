"""Training on a Ray cluster: Ray Train runs the workers, restarts them from checkpoints, and keeps those on storage."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from tasks.errors import ArtifactError, InputError
from tasks.progress import Listener, Progress
from tasks.ray_cluster import connect
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest
from tasks.storage.objects import open_store
from tasks.train.checkpoint import write_part
from tasks.train.checkpoint_names import CHECKPOINTS, checkpoint_name, prune
from tasks.train.checkpoint_writer import CheckpointWriter
from tasks.train.curve import is_spike, spike_told
from tasks.train.distributed import Spares, TorchMesh
from tasks.train.finish import close
from tasks.train.job.ray_device import on_its_device
from tasks.train.job.ray_job import check_room, supervise, told_to_stop
from tasks.train.job.stored import drop_forgotten_checkpoints, drop_unusable_snapshot, require_shared
from tasks.train.loggers import open_loggers
from tasks.train.loop import Run, StoppedError, ignore
from tasks.train.mixing import tell_mixing
from tasks.train.run_settings import RunSettings
from tasks.train.source import RowSource
from tasks.train.worker import Worker

_TELL_S = 1.0


def train(
    config: RunSettings,
    activations: str,
    out: str,
    listener: Listener,
    tokens: str | None = None,
    source: RowSource | None = None,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Train the SAE of ``config`` on ``activations`` and write it below ``out``; nothing happens where it is finished.

    A run that was killed goes on from its newest checkpoint below ``out``.

    Args:
        config: of the SAE and its training.
        activations: what it is trained on.
        out: gets the SAE and its checkpoints.
        listener: is told how far it is.
        tokens: tell which document each row is from, so that it can be said how well batches are mixed, if there are any.
        source: where rows are read, where that is not simply ``activations``.
        look: is called some times a second; what it raises ends the training.

    Raises:
        InputError: the cluster is too small, or has no GPUs to go on with; settings disagree with the activations; or the
            loss is not finite.
        ArtifactError: the activations are unfinished or damaged.
        SaemillError: workers were lost more often than train.max_failures.
    """
    if read_manifest(out) is not None:
        return
    started = time.perf_counter()
    connect(config.ray)
    config = replace(config, train=on_its_device(config.train, config.ray, out))
    check_room(config.train)
    source = source or RowSource(activations)
    tell_mixing(config.train, config.hooks.first, source, tokens, out)
    drop_unusable_snapshot(out)
    task = {"activations": activations, "source": source}
    finished = supervise(config, _work, task, out, lambda told: listener(told[0]), look)
    prune(open_store(out), f"{CHECKPOINTS}/", config.train.keep_checkpoints)
    timing = {"seconds": time.perf_counter() - started} | finished.pop("timing")
    close(config, activations, out, finished, timing)


def _work(task: dict[str, Any]) -> dict[str, Any]:
    """One worker's part; rank 0 writes the finished SAE and returns what the manifest says about it."""
    config, job = task["config"], task["job"]
    context = ray.train.get_context()
    rank, device = context.get_world_rank(), str(ray.train.torch.get_device())
    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    n_workers = config.train.at_work(context.get_world_size())
    spares = Spares(config.train.latent_shards, n_workers) if n_workers < context.get_world_size() else None
    if spares is not None and rank >= n_workers:
        spares.wait(_report)
        return {}
    tell_spares = spares.tell if spares is not None and rank == 0 else ignore
    mesh = TorchMesh(config.train.latent_shards, n_workers) if n_workers > 1 else OneProcess()
    found: dict[str, Any] = {}
    try:
        require_shared(task["out"])
        worker = Worker(config, task["activations"], task["out"], mesh, device, task["source"])
        with _listener(task, worker, rank) as on_row, told_to_stop(job) if rank == 0 else nullcontext(_never) as stopping:
            run = _trained(worker, on_row, tell_spares, stopping)
            found = worker.finish(run)
            found = found | {"timing": {"workers": n_workers} | worker.accounts(run)} if rank == 0 else {}
    except StoppedError:
        pass
    except (InputError, ArtifactError) as error:  # a restart would not help
        ray.get(job.refuse.remote(error))
        raise
    tell_spares(None)
    return found


def _trained(
    worker: Worker, on_row: Callable[[Run], None], tell_spares: Callable[[int], object], stopping: Callable[[], bool]
) -> Run:
    """Train to the end, with checkpoints written beside the steps; the last one is there."""
    with CheckpointWriter() as writer:

        def look() -> bool:
            writer.check()
            return stopping()

        run = worker.train(on_row, partial(_checkpoint, worker=worker, writer=writer, tell_spares=tell_spares), look)
        waited = writer.wait()
    run.timing.saving += waited
    run.timing.seconds += waited
    return run


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

    def __init__(self, config: RunSettings, job: Any) -> None:
        self._total = config.train.tokens
        self._job = job
        self._first: tuple[float, int] | None = None
        self._told = 0.0

    def __call__(self, run: Run) -> None:
        now, row, timing = time.monotonic(), run.curve[-1], run.timing
        done = min(row.tokens, self._total)
        self._first = self._first or (now, done)
        if now - self._told < _TELL_S and done < self._total:
            return
        self._told = now
        since, rows = now - self._first[0], done - self._first[1]
        numbers = {name: getattr(row, name) for name in ("loss", "fvu", "l0", "dead_fraction", "lr")}
        rate = rows / since if since > 0 else None
        numbers["waiting"] = timing.waiting / timing.seconds
        self._job.tell.remote(Progress("train", done, self._total, per_second=rate, numbers=numbers))


def _checkpoint(run: Run, worker: Worker, writer: CheckpointWriter, tell_spares: Callable[[int], object]) -> None:
    """Have a checkpoint written, each part of the latents by one worker, and Ray Train told of it.

    Telling is a barrier, of the threads that write: Ray Train hears of no checkpoint that is not whole.
    """
    step, copied = run.state.step, writer.copy(run) if worker.mesh.data.rank == 0 else None

    def write() -> None:
        _report(step, None if copied is None else _written(copied(), worker))

    writer.begin(write)
    tell_spares(step)


def _written(run: Run, worker: Worker) -> ray.train.Checkpoint:
    """Write this worker's part of a checkpoint; what Ray Train is told of it.

    Not through a temporary folder, which a kill would leave behind, nor by Ray's copying, which knows no patience.
    """
    store, latents = open_store(worker.out), worker.mesh.latents
    if latents.rank == 0:
        drop_forgotten_checkpoints(store, worker.config.train.keep_checkpoints)
    write_part(run, store, f"{CHECKPOINTS}/", latents)
    storage = ray.train.get_context().get_storage()
    at = storage.build_checkpoint_path_from_name(checkpoint_name(run.state.step))
    return ray.train.Checkpoint(at, storage.storage_filesystem)


def _report(step: int, checkpoint: ray.train.Checkpoint | None = None) -> None:
    ray.train.report(
        {"step": step},
        checkpoint=checkpoint,
        checkpoint_dir_name=checkpoint_name(step),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
    )
