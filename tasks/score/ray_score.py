"""Scoring as Ray tasks: each looks at some held-out rows and returns sums, which are added here in a fixed order.

On CPUs a task is given one piece of work. On GPUs each is given a share of all, since Ray starts a process for each task
there: that takes seconds, and leaves no memory of the GPU taken.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayTaskError

from tasks.encode.pieces import Piece
from tasks.errors import ArtifactError, InputError, SaemillError
from tasks.out_of_memory import is_out_of_memory
from tasks.progress import Listener, Progress
from tasks.ray_cluster import cluster_cpus, cluster_gpus, connect
from tasks.ray_config import RayConfig
from tasks.sae import load
from tasks.score.config import ScoreConfig
from tasks.score.examples import choose
from tasks.score.job import ScoreJob
from tasks.score.results import Results, write_results
from tasks.score.stability import Stability
from tasks.score.survey import Survey
from tasks.score.work import (
    SPLICE_SEQUENCES,
    Surveyed,
    baseline_k,
    measure_baselines,
    measure_splices,
    measure_stability,
    read_weights,
    show_pieces,
    splice_sequences,
    survey_pieces,
)
from tasks.storage.artifacts import read_manifest

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_S = 1.0
_SMALL_FLOP = 1e11
"""Five seconds of one core."""


def score(job: ScoreJob, cluster: RayConfig, out: str, listener: Listener) -> None:
    """Score an SAE on held-out rows and write scores/ to ``out``; does nothing where it is finished.

    Raises:
        ArtifactError: an input is damaged, or SAE and activations do not fit.
        InputError: the cluster has not so much of a GPU as each task is to have, or memory ends.
    """
    if read_manifest(out) is not None:
        return
    connect(cluster)
    began = time.monotonic()
    results = _measure(replace(job, gpus=_gpus_per_task(job.settings)), listener)
    seconds = time.monotonic() - began
    write_results(job, out, load(job.sae), results, seconds)
    logger.info("scored %d rows in %.1f s: %s", results.survey.latents.n_tokens, seconds, out)


def _measure(job: ScoreJob, listener: Listener) -> Results:
    pieces, sequences = job.pieces, splice_sequences(job)
    if not pieces:
        raise ArtifactError(f"{job.activations} has no held-out rows of {job.hooks.first}. Harvest again.")
    groups = [sequences[i : i + SPLICE_SEQUENCES] for i in range(0, len(sequences), SPLICE_SEQUENCES)]
    shares, of_splices = _shares(pieces, job.gpus), _shares(groups, job.gpus)
    pool = _Pool(_at_once(job, pieces), 2 * len(shares) + len(of_splices) + 2, listener, job.gpus)
    try:
        surveys = [pool.submit(survey_pieces, job, share) for share in shares]
        splices = [pool.submit(measure_splices, job, share) for share in of_splices]
        weights = pool.submit(read_weights, job)
        devices: dict[str, int | None] = {}
        survey = reduce(add, _surveys(pool.results(surveys), devices))
        baselines = pool.submit(measure_baselines, job, baseline_k(job, survey.latents.l0))
        contexts = choose(survey.evidence, job.settings)
        shown = [
            pool.submit(
                show_pieces,
                job,
                [(piece, contexts.between(piece.first, piece.first + piece.rows)) for piece in share],
                survey.latents.largest,
            )
            for share in shares
        ]
        spliced = [part for parts in pool.results(splices) for part in parts if part is not None]
        return Results(
            survey=survey,
            splice=reduce(add, spliced) if spliced else None,
            baselines=next(pool.results([baselines])),
            weights=next(pool.results([weights])),
            examples=[part for parts in pool.results(shown) for part in parts],
            devices=devices,
        )
    finally:
        pool.stop()


def _surveys(parts: Iterator[Surveyed], devices: dict[str, int | None]) -> Iterator[Survey]:
    """Those of all pieces; what looked at them is noted in ``devices``, with the most memory that was taken."""
    for part in parts:
        most = [peak for peak in (devices.get(part.device), part.peak_bytes) if peak is not None]
        devices[part.device] = max(most, default=None)
        yield from part.surveys


def _gpus_per_task(settings: ScoreConfig) -> float:
    there, wanted = cluster_gpus(), settings.gpus_per_task
    if wanted is None:
        return 1.0 if there else 0.0
    if wanted > there:
        raise InputError(
            f"score.gpus_per_task is {wanted:g} but the Ray cluster has {there:g} GPUs. Leave it empty, or set it to 0 to "
            "score on CPUs."
        )
    return wanted


def _shares(items: Sequence[T], gpus: float, rivals: int = 1) -> list[list[T]]:
    """What each task is given, in order: on CPUs one item, on GPUs as many as let all tasks run at once.

    ``rivals`` says how many such lists of items there are that share the GPUs.
    """
    n = len(items)
    if gpus:
        at_once = int(cluster_gpus()) * int(1 / gpus + 1e-6)  # no task has parts of two GPUs
        n = min(n, max(1, at_once // rivals))
    return [list(items[len(items) * i // n : len(items) * (i + 1) // n]) for i in range(n)]


def _at_once(job: ScoreJob, pieces: Sequence[Piece]) -> int | None:
    """How many pieces of work are done at once; None for as many as there is room for.

    A process takes 5 s of a slow CPU to start (Zen 3), so that less work than that is left to one.
    """
    small = job.tokens is None and _flop(job, pieces) < _SMALL_FLOP
    return job.settings.tasks_in_flight or (1 if small else None)


def _flop(job: ScoreJob, pieces: Sequence[Piece]) -> int:
    """Of encoding and decoding the pieces' rows."""
    return 6 * sum(piece.rows for piece in pieces) * job.split("eval").d_in * load(job.sae).d_sae


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Of ``summary.json``, what SAEs are compared by."""

    fvu: float | None
    l0: float
    dead_fraction: float


def compare(
    jobs: Sequence[ScoreJob], cluster: RayConfig, pairs: Sequence[tuple[str, str]], listener: Listener
) -> tuple[list[HeldOut], list[Stability]]:
    """The figures of SAEs of one set of activations on its held-out rows, and what pairs of SAEs have in common.

    Args:
        jobs: one for each SAE, with the same settings and activations.
        cluster: where the work runs.
        pairs: URIs of SAEs.
        listener: is told how far it is.

    Raises:
        ArtifactError: an input is damaged, or an SAE and the activations do not fit.
        InputError: the cluster has not so much of a GPU as each task is to have, or memory ends.
    """
    if not jobs:
        return [], []
    connect(cluster)
    settings, gpus = _least(jobs[0].settings), _gpus_per_task(jobs[0].settings)
    jobs = [replace(job, settings=settings, gpus=gpus) for job in jobs]
    shares = _shares(jobs[0].pieces, gpus, len(jobs))
    pool = _Pool(settings.tasks_in_flight, len(jobs) * len(shares) + len(pairs), listener, gpus)
    try:
        surveys = [[pool.submit(survey_pieces, job, share) for share in shares] for job in jobs]
        matches = [pool.submit(measure_stability, *pair, jobs[0].device) for pair in pairs]
        found = [_held_out(reduce(add, _surveys(pool.results(parts), {}))) for parts in surveys]
        return found, list(pool.results(matches))
    finally:
        pool.stop()


def _least(settings: ScoreConfig) -> ScoreConfig:
    """The same with as little evidence as can be, which is not kept here."""
    return settings.model_copy(update={"top_contexts": 1, "quantiles": 0})


def _held_out(found: Survey) -> HeldOut:
    return HeldOut(found.rebuilt.every.fvu, found.latents.l0, found.latents.dead_fraction)


def _one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """A task reserves one CPU, and Ray's own setting of threads comes too late where torch was imported before."""
    torch.set_num_threads(1)
    try:
        return function(*arguments)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"There is no memory left for a scoring task ({function.__name__}). On GPUs, raise score.gpus_per_task so that "
            "fewer tasks share one, or set it to 0 to score on CPUs; on CPUs, lower score.tasks_in_flight."
        ) from error


class _Pool:
    """Runs work as Ray tasks of one CPU and some of a GPU, so many at once, and tells how much is done."""

    def __init__(self, limit: int | None, total: int, listener: Listener, gpus: float) -> None:
        # Two per CPU: the next one waits on its worker while the last one ends.
        self._limit = limit or 2 * max(1, int(cluster_cpus()))
        self._total, self._finished, self._began = total, 0, time.monotonic()
        self._listener = listener
        self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_one_thread)
        self._waiting: deque[tuple[int, tuple[Any, ...]]] = deque()
        self._running: dict[ray.ObjectRef, int] = {}
        self._done: dict[int, ray.ObjectRef] = {}
        self._submitted = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Queue a call; the number returned asks for its result."""
        self._submitted += 1
        self._waiting.append((self._submitted, (function, *arguments)))
        self._fill()
        return self._submitted

    def results(self, numbers: list[int]) -> Iterator[Any]:
        """The results of these calls, in this order, each as soon as it and those before it are there.

        Raises:
            SaemillError: what the call itself raised.
        """
        for number in numbers:
            while number not in self._done:
                self._wait()
            yield _result(self._done.pop(number))

    def stop(self) -> None:
        """Begin nothing more. What runs comes to its end, or dies with this process.

        Not by ``ray.cancel``: where it meets a task's reply, Ray ends this process ("Tried to complete task that was not
        pending", 2.60, seen once in a test).
        """
        self._waiting.clear()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._limit:
            number, call = self._waiting.popleft()
            self._running[self._task.remote(*call)] = number

    def _wait(self) -> None:
        ready, _ = ray.wait(list(self._running), timeout=_POLL_S)
        for reference in ready:
            self._done[self._running.pop(reference)] = reference
            self._finished += 1
        self._fill()
        rate = self._finished / (time.monotonic() - self._began)
        self._listener(Progress("score", self._finished, self._total, unit="parts", per_second=rate or None))


def _result(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, SaemillError):
            raise error.cause from None
        raise
