"""What each process of a harvest does: overlapped stages, from sequences of tokens to committed rows. No Ray.

    read the next shard's tokens -> forward pass -> put the rows in order, encode and upload them

A shard takes the next stage before it leaves its own, so each stage holds one shard at most: the model waits neither for
tokens nor for storage unless these are slower than itself, and memory holds one shard read, one in the model, one behind it.

A GPU is faster than a thread that encodes. So behind it the last stage is two: rows are put in order on the GPU, one shard
at a time, and several shards at once are encoded and uploaded.
"""

import functools
import math
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from tasks.errors import SaemillError
from tasks.harvest.batch import Batch
from tasks.harvest.capture import Subject, forward, rows
from tasks.harvest.commit import commit_shard
from tasks.harvest.config import HarvestConfig
from tasks.harvest.pool.memory import keep_freed_memory
from tasks.harvest.pool.ranks import Ranks, Seat
from tasks.harvest.shards import Shard, row_order
from tasks.lm.attention import choose_attention
from tasks.lm.config import ModelConfig
from tasks.lm.engines.errors import EngineError
from tasks.lm.engines.parity import TOKENS, Parity
from tasks.lm.engines.transformers_engine import TransformersEngine
from tasks.lm.engines.version import require_version
from tasks.lm.engines.vllm_engine import VllmEngine, load_vllm
from tasks.lm.hooks import prune_after
from tasks.lm.load import load_model
from tasks.storage.artifacts import identity, require_manifest
from tasks.storage.objects import open_store
from tasks.text.stored import read_sequences

IN_FLIGHT = 3
"""Shards that a harvester on CPUs has use for at once: one per stage."""
STORED_AT_ONCE_BEHIND_A_GPU = 8
"""Encoding a shard (pages, CRC, sha256) goes at .5 GB/s in one thread, 2.1 in four, 3.9 in eight. An H200 makes 2.6 GB/s of
rows with SmolLM2-135M, 1.5 with a model of 1B.
"""
MOST_BYTES_BEHIND_A_GPU = 4 * 2**30
"""Fewer are stored at once where they are large, as of many hooks: each is in main memory as rows, and by hook as a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarvestJob:
    """What a harvester must know; small, since it is sent to each."""

    settings: HarvestConfig
    model: ModelConfig
    """With an absolute path: Ray's workers have a directory of their own."""
    tokens: str
    out: str
    context_length: int
    """Tokens per sequence."""
    special_token_ids: list[int]
    padding_token_id: int | None = None
    gpus: float
    shard_bytes: int = 0
    """Of a whole shard's rows, at all hooks."""
    order: str | None = None
    """Hex digits that seed the order of rows within shards. None: the recipe's."""
    engine_version: str | None = None
    """Of the package that runs the model, where that is not transformers."""
    at_most: int | None = None
    """Sequences per forward pass that groups before were found to have memory for."""

    @property
    def device(self) -> str:
        """Where the model is: one GPU at most is seen by an actor."""
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """Of torch's, for the model's work."""
        return max(1, int(self.settings.cpus_per_actor))

    @property
    def recipe(self) -> str:
        """Hash of the activations' recipe."""
        return identity(self.out)

    @property
    def stored_at_once(self) -> int:
        """Shards that are encoded and uploaded at once, behind a GPU."""
        return max(1, min(STORED_AT_ONCE_BEHIND_A_GPU, MOST_BYTES_BEHIND_A_GPU // max(1, self.shard_bytes)))

    @property
    def in_flight(self) -> int:
        """Shards that a harvester has use for at once."""
        return IN_FLIGHT + (self.stored_at_once if self.gpus else 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a harvester says of a shard that is stored, and of how it works by now."""

    computed: bool
    """False: it had been stored already, by whomever."""
    batch_sequences: int
    """Sequences per forward pass, as the settings, the search for the fastest or memory decided."""
    attention: str
    """Which of transformers' implementations the model runs on."""
    parity: Mapping[str, Parity] = field(default_factory=dict)
    """By hook, how far another engine was from transformers when it was loaded."""


class Harvester:
    """Holds the model up to the last hook; its methods are called from many threads."""

    def __init__(self, job: HarvestJob, seat: Seat | None = None) -> None:
        """``seat``: rank 0's, of a group that holds the model together."""
        keep_freed_memory()
        self._job = job
        # One thread for all that the model does, whoever calls: each thread has helpers of OpenMP and memory of its own,
        # and OpenMP's helpers stop waiting actively when there are more of them than cores.
        self._model_thread = ThreadPoolExecutor(1, "model", torch.set_num_threads, (job.threads,))
        load = functools.partial(_subject, job) if seat is None else functools.partial(_shared_subject, job, seat)
        self._loading = self._model_thread.submit(load)
        # Of what a constructor raises, Ray keeps only the text, and the pool tries again. So a refusal is told when asked.
        if not isinstance(self._loading.exception(), EngineError):
            self._loading.result()
        self._store = open_store(job.out)
        self._reading, self._forward, self._ordering = (threading.Semaphore() for _ in range(3))
        self._storing = threading.Semaphore(job.stored_at_once) if job.gpus else self._ordering
        self._through: dict[str, int] = {}
        self._stopping = False

    def harvest(self, shard: Shard, attempt: int) -> Outcome:
        """Harvest one shard and commit it, unless that has been done already.

        Raises:
            InputError: activations do not fit the storage dtype, or there is no room left for them.
            SaemillError: ``stop`` was called.
        """
        try:
            computed = self._harvest(shard, attempt)
        finally:
            self._through.pop(shard.name, None)
        engine = self._subject.engine
        return Outcome(computed, self._batch_sequences, engine.attention, engine.parity)

    def progress(self) -> dict[str, int]:
        """Tokens through the model so far, of each shard at work.

        Raises:
            EngineError: the engine cannot be used.
        """
        self._loading.result()
        return dict(self._through)

    def stop(self) -> None:
        """Let what is through the model be stored, and end the rest at its next batch."""
        self._stopping = True

    def _harvest(self, shard: Shard, attempt: int) -> bool:
        config = self._job.settings
        with _Stages(self._reading) as stages:
            if self._committed(shard):  # by an attempt that died after its commit, or by another run
                return False
            token_ids = read_sequences(self._job.tokens, shard.first_sequence, shard.n_sequences)
            stages.enter(self._forward)
            if self._committed(shard):  # by another run, while it waited for the model
                return False
            began = time.monotonic()
            count = functools.partial(self._count, shard)
            captured = self._model_thread.submit(forward, self._subject, config, token_ids, count).result()
            seconds = time.monotonic() - began
            stages.enter(self._ordering)
            began = time.monotonic()
            torch.set_num_threads(1)  # of this thread: the forward pass has its own
            order = functools.partial(row_order, self._job.order or self._job.recipe, shard)
            hooks = rows(self._subject, config, self._job.recipe, token_ids, captured, order)
            seconds += time.monotonic() - began  # a GPU is at work on the forward pass until here
            stages.enter(self._storing)
            made = {"batch_sequences": self._batch_sequences, "gpus_per_replica": config.gpus_per_replica}
            observed = {"seconds": seconds, "attempt": attempt, **made}
            commit_shard(self._store, shard, hooks, config.row_group_rows, **observed)
        return True

    @property
    def _subject(self) -> Subject:
        return self._loading.result()

    @property
    def _batch_sequences(self) -> int:
        return self._subject.batch.sequences(self._job.settings.batch_sequences)

    def _committed(self, shard: Shard) -> bool:
        return self._store.head(shard.commit_key) is not None

    def _count(self, shard: Shard, tokens: int) -> None:
        if self._stopping:
            raise SaemillError("The harvest is being stopped.")
        self._through[shard.name] = self._through.get(shard.name, 0) + tokens


def _subject(job: HarvestJob) -> Subject:
    if job.model.engine == "vllm":
        batch = Batch.of_shards(max(1, job.settings.shard_tokens // job.context_length))
        return Subject(_vllm(job, batch.sequences(job.settings.batch_sequences)), *_said(job), batch)
    return Subject(load_transformers(job), *_said(job))


def _said(job: HarvestJob) -> tuple[str, str, list[int], int | None]:
    return job.model.label, job.model.revision or "", job.special_token_ids, job.padding_token_id


def load_transformers(job: HarvestJob) -> TransformersEngine:
    """The model up to the last hook, on this process' device.

    Raises:
        InputError: as ``load_model``.
    """
    model = load_model(job.model, device="cpu", hooks=job.settings.hooks)
    prune_after(model, job.settings.hooks, job.context_length)
    model.to(job.device)
    choose_attention(model, job.settings.hooks)
    return TransformersEngine(model)


def _vllm(job: HarvestJob, sequences: int) -> VllmEngine:
    """Compared with transformers on the first sequences of the text."""
    require_version(job.model, job.engine_version)
    there = sum(require_manifest(job.tokens)["n_sequences"].values())
    token_ids = read_sequences(job.tokens, 0, min(there, math.ceil(TOKENS / job.context_length)))
    sample = torch.from_numpy(token_ids.astype(np.int64))
    return load_vllm(job.model, job.settings.hooks, sample, job.gpus, job.recipe, sequences)


def _shared_subject(job: HarvestJob, seat: Seat) -> Subject:
    """The same of a group. Weights behind the last hook stay: to find them takes a forward pass that each ends alone."""
    ranks = Ranks(seat, job.device)
    engine = TransformersEngine(ranks.load(job.model, job.settings.hooks), take=ranks.capture)
    return Subject(engine, *_said(job), Batch(job.at_most))


class _Stages:
    """The stage that a shard is in: the next is entered before the last is left, so nothing piles up between them."""

    def __init__(self, first: threading.Semaphore) -> None:
        self._held = first

    def __enter__(self) -> "_Stages":
        self._held.acquire()
        return self

    def enter(self, following: threading.Semaphore) -> None:
        """Wait for the next stage, unless it is this one still, then leave this one."""
        if following is not self._held:
            following.acquire()
            self._held.release()
            self._held = following

    def __exit__(self, *_: object) -> None:
        self._held.release()
