"""What each process of a harvest does: three overlapped stages, from sequences of tokens to committed rows. No Ray.

    read the next shard's tokens -> forward pass -> encode and upload the shard before

A shard takes the next stage before it leaves its own, so each stage holds one shard at most: the model waits neither for
tokens nor for storage unless these are slower than itself, and memory holds one shard read, one in the model, one behind it.
"""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from tasks.errors import SaemillError
from tasks.harvest.capture import Subject, forward, rows
from tasks.harvest.commit import commit_shard
from tasks.harvest.config import HarvestConfig
from tasks.harvest.pool.memory import keep_freed_memory
from tasks.harvest.shards import Shard
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import prune_after
from tasks.lm.load import load_model
from tasks.storage.artifacts import identity
from tasks.storage.objects import open_store
from tasks.text.stored import read_sequences

IN_FLIGHT = 3
"""Shards that a harvester has use for at once: one per stage."""


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
    order: str | None = None
    """Hex digits that seed the order of rows within shards. None: the recipe's."""

    @property
    def recipe(self) -> str:
        """Hash of the activations' recipe."""
        return identity(self.out)


class Harvester:
    """Holds the model up to the last hook; its methods are called from many threads."""

    def __init__(self, job: HarvestJob) -> None:
        keep_freed_memory()
        self._job = job
        # One thread for all that the model does, whoever calls: each thread has helpers of OpenMP and memory of its own,
        # and OpenMP's helpers stop waiting actively when there are more of them than cores.
        threads = max(1, int(job.settings.cpus_per_actor))
        self._model_thread = ThreadPoolExecutor(1, "model", torch.set_num_threads, (threads,))
        self._subject = self._model_thread.submit(_subject, job).result()
        self._store = open_store(job.out)
        self._reading, self._forward, self._behind = threading.Lock(), threading.Lock(), threading.Lock()
        self._through: dict[str, int] = {}
        self._stopping = False

    def harvest(self, shard: Shard, attempt: int) -> bool:
        """Harvest one shard and commit it; False if that has been done already, by whomever.

        Raises:
            InputError: activations do not fit the storage dtype, or there is no room left for them.
            SaemillError: ``stop`` was called.
        """
        try:
            return self._harvest(shard, attempt)
        finally:
            self._through.pop(shard.name, None)

    def progress(self) -> dict[str, int]:
        """Tokens through the model so far, of each shard at work."""
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
            stages.enter(self._behind)
            torch.set_num_threads(1)  # of this thread: the forward pass has its own
            hooks = rows(self._subject, config, self._job.recipe, token_ids, captured)
            observed = {"seconds": seconds, "attempt": attempt}
            commit_shard(self._store, shard, hooks, config.row_group_rows, order=self._job.order, **observed)
        return True

    def _committed(self, shard: Shard) -> bool:
        return self._store.head(shard.commit_key) is not None

    def _count(self, shard: Shard, tokens: int) -> None:
        if self._stopping:
            raise SaemillError("The harvest is being stopped.")
        self._through[shard.name] = self._through.get(shard.name, 0) + tokens


def _subject(job: HarvestJob) -> Subject:
    model = load_model(job.model, device="cpu", hooks=job.settings.hooks)
    prune_after(model, job.settings.hooks, job.context_length)
    model.to("cuda" if job.gpus else "cpu")
    return Subject(model, job.model.label, job.model.revision or "", job.special_token_ids, job.padding_token_id)


class _Stages:
    """The stage that a shard is in: the next is entered before the last is left, so nothing piles up between them."""

    def __init__(self, first: threading.Lock) -> None:
        self._held = first

    def __enter__(self) -> "_Stages":
        self._held.acquire()
        return self

    def enter(self, following: threading.Lock) -> None:
        """Wait for the next stage, then leave this one."""
        following.acquire()
        self._held.release()
        self._held = following

    def __exit__(self, *_: object) -> None:
        self._held.release()
