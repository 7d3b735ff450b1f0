"""A sweep on a Ray cluster: one job of Ray Train whose workers train different SAEs, each on the same stream of batches."""

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from tasks.activations.multi_hook import open_split
from tasks.errors import ArtifactError, InputError
from tasks.progress import Listener, Progress
from tasks.ray_cluster import connect
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest
from tasks.train.curve import is_spike, spike_told
from tasks.train.finish import close
from tasks.train.job.ray_device import on_its_device
from tasks.train.job.ray_job import check_room, supervise, told_to_stop
from tasks.train.job.stored import drop_unusable_snapshot
from tasks.train.loggers import open_loggers
from tasks.train.loop import Run, StoppedError
from tasks.train.mixing import tell_mixing
from tasks.train.run_settings import RunSettings
from tasks.train.source import RowSource
from tasks.train.sweep.members import packed, require_memory, state_bytes
from tasks.train.sweep.together import train_together
from tasks.train.worker import Worker

logger = logging.getLogger(__name__)

_TELL_S = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """An SAE of the sweep, and where to it is trained."""

    label: str
    """What sets it apart from the others."""
    config: RunSettings
    """As of a run of its own."""
    out: str


def train_sweep(
    config: RunSettings,
    targets: Sequence[Target],
    activations: str,
    out: str,
    listener: Listener,
    tokens: str | None = None,
) -> None:
    """Train those of ``targets`` that are not finished.

    A sweep that was killed goes on from each SAE's own newest checkpoint. An SAE whose loss is not finite any more is told
    in the log and left unfinished; the others go on. ``config`` is what they have in common, ``out`` is for Ray Train's own
    files, ``tokens`` as in ``train``.

    Raises:
        InputError: the cluster is too small, or has no GPUs to go on with; or settings disagree with the activations.
        ArtifactError: the activations are unfinished or damaged.
        SaemillError: workers were lost more often than train.max_failures.
    """
    n_saes = len(targets)
    targets = [target for target in targets if read_manifest(target.out) is None]
    if not targets:
        return
    connect(config.ray)
    config = replace(config, train=on_its_device(config.train, config.ray, *(target.out for target in targets)))
    d_in, d_out = (open_split(activations, hooks, "train").d_in for hooks in (config.hooks.inputs, config.hooks.outputs))
    needed = [state_bytes(target.config.sae, d_in, d_out) for target in targets]
    packs = packed([target.config.sae.d_sae * (d_in + d_out) for target in targets], config.train.workers)
    config = replace(config, train=config.train.model_copy(update={"workers": len(packs), "min_workers": None}))
    check_room(config.train)
    require_memory([sum(needed[i] for i in pack) for pack in packs], _memory_by_node())
    tell_mixing(config.train, config.hooks.first, RowSource(activations), tokens, *(target.out for target in targets))
    drop_unusable_snapshot(out)
    logger.info("sweep: %d SAEs to train on %d workers", len(targets), len(packs))
    task = {"activations": activations, "packs": [[targets[i] for i in pack] for pack in packs]}
    total, earlier = (n * config.train.tokens for n in (n_saes, n_saes - len(targets)))
    supervise(config, _work, task, out, lambda told: listener(_added(told, earlier, total)))


def _memory_by_node() -> list[int]:
    """Bytes of memory of each machine of the cluster that tells them, less its object store."""
    return [int(node["Resources"]["memory"]) for node in ray.nodes() if node["Alive"] and "memory" in node["Resources"]]


def _added(told: list[Progress], earlier: int, total: int) -> Progress:
    """One observation of all workers together; tokens count once for each SAE."""
    rates = [progress.per_second for progress in told if progress.per_second is not None]
    numbers: dict[str, float] = {}
    for name, best in (("saes", sum), ("fvu_least", min)):
        values = [progress.numbers[name] for progress in told if name in progress.numbers]
        if values:
            numbers[name] = best(values)
    done = earlier + sum(progress.done for progress in told)
    return replace(told[0], done=done, total=total, per_second=sum(rates) or None, numbers=numbers)


def _work(task: dict[str, Any]) -> dict[str, Any]:
    """One worker's part: its pack of SAEs, each written as it ends; nothing is left to be returned."""
    config, job = task["config"], task["job"]
    context = ray.train.get_context()
    rank, device = context.get_world_rank(), str(ray.train.torch.get_device())
    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    pack = [target for target in task["packs"][rank] if read_manifest(target.out) is None]  # after a restart
    if not pack:
        return {}
    try:
        workers = [Worker(t.config, task["activations"], t.out, OneProcess(), device) for t in pack]
        with contextlib.ExitStack() as stack:
            told = _Told(task, pack, workers, rank)
            for worker in workers:
                log = open_loggers(worker.config, worker.plan, worker.out, task["folder"], job.warn.remote)
                told.logs.append(stack.enter_context(log))
            train_together(workers, told.row, told.end, told.fault, stack.enter_context(told_to_stop(job)))
    except StoppedError:
        return {}
    except (InputError, ArtifactError) as error:  # a restart would not help
        ray.get(job.refuse.remote(error))
        raise
    return {}


class _Told:
    """What happens to the SAEs of one worker, told to the job and to loggers, and written where one has ended."""

    def __init__(self, task: dict[str, Any], pack: list[Target], workers: list[Worker], rank: int) -> None:
        self.logs: list[Any] = []
        self._task, self._pack, self._workers, self._rank = task, pack, workers, rank
        self._tokens = task["config"].train.tokens
        self._finished = len(task["packs"][rank]) - len(pack)
        self._done, self._fvu = dict[int, int](), dict[int, float]()
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def row(self, index: int, run: Run) -> None:
        """A row of an SAE's curve is there."""
        self.logs[index](run)
        if is_spike(run.curve):
            self._warn(index, spike_told(run.curve))
        self._done[index], self._fvu[index] = min(run.curve[-1].tokens, self._tokens), run.curve[-1].fvu
        self._tell()

    def end(self, index: int, run: Run) -> None:
        """An SAE has taken its last step."""
        worker, since = self._workers[index], run.timing.seconds
        found = worker.finish(run)
        timing = {"seconds": since, "workers": 1} | worker.accounts(run)
        close(worker.config, self._task["activations"], worker.out, found, timing)
        self._done[index] = self._tokens
        self._tell()

    def fault(self, index: int, error: InputError) -> None:
        """An SAE's loss is not finite any more."""
        self._done[index] = self._tokens
        self._fvu.pop(index, None)
        self._warn(index, str(error))
        self._tell()

    def _warn(self, index: int, what: str) -> None:
        ray.get(self._task["job"].warn.remote(f"{self._pack[index].label}: {what}"))

    def _tell(self) -> None:
        """Tell how far the pack is, at most once a second, and at its end."""
        now, done = time.monotonic(), sum(self._done.values())
        ended = done >= len(self._pack) * self._tokens
        if self._first is None and len(self._done) == len(self._pack):  # how far each is, begun earlier or not, is known
            self._first = (now, done)
        if now - self._last < _TELL_S and not ended:
            return
        self._last = now
        since, rows = (now - self._first[0], done - self._first[1]) if self._first is not None else (0.0, 0)
        total = self._tokens * len(self._task["packs"][self._rank])
        numbers: dict[str, float] = {"saes": len(self._task["packs"][self._rank])}
        if self._fvu:
            numbers["fvu_least"] = min(self._fvu.values())
        rate = rows / since if since > 0 and rows > 0 else None
        progress = Progress("sweep", done + self._finished * self._tokens, total, "SAE-tokens", rate, numbers)
        told = self._task["job"].tell.remote(progress, self._rank)
        if ended:
            ray.get(told)
