"""A pool of Ray actors, each of which turns whole shards of sequences into stored rows; nothing passes through Ray."""

import logging
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from tasks.artifacts import identity
from tasks.config import PipelineConfig
from tasks.errors import InputError, SaemillError
from tasks.harvest.capture import Subject, harvest_shard
from tasks.harvest.commit import commit_shard
from tasks.harvest.shards import Shard
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import prune_after
from tasks.lm.load import load_model
from tasks.on_ray import cluster_cpus, cluster_gpus
from tasks.progress import Listener, Progress
from tasks.store.files import read_sequences
from tasks.store.objects import open_store

logger = logging.getLogger(__name__)

# One shard in the forward pass and one being encoded and written, so that the model never waits for storage.
_IN_FLIGHT_PER_ACTOR = 2
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """What an actor must know; small, since it is sent to each."""

    config: PipelineConfig
    model: ModelConfig
    """``config.model`` with an absolute path: Ray's workers have a directory of their own."""
    tokens: str
    out: str
    special_token_ids: list[int]
    gpus: float

    @property
    def recipe(self) -> str:
        """Hash of the activations' recipe."""
        return identity(self.out)


class _Harvester:
    """The actor: holds the model up to the last hook; shards are harvested one by one and written behind."""

    def __init__(self, job: Job) -> None:
        self._job = job
        config = job.config
        model = load_model(job.model, device="cpu")
        prune_after(model, config.harvest.hooks)
        model.to("cuda" if job.gpus else "cpu")
        self._subject = Subject(model, config.model.label, config.model.revision or "", job.special_token_ids)
        self._store = open_store(job.out)
        self._forward = threading.Lock()
        self._tokens = 0

    def harvest(self, shard: Shard, attempt: int) -> None:
        """Harvest one shard and commit it."""
        config = self._job.config.harvest
        token_ids = read_sequences(self._job.tokens, shard.first_sequence, shard.n_sequences)
        with self._forward:
            began = time.monotonic()
            # The thread count belongs to the calling thread, and Ray calls from a pool of threads.
            torch.set_num_threads(max(1, int(config.cpus_per_actor)))
            hooks = harvest_shard(self._subject, config, self._job.recipe, shard, token_ids, self._count)
            seconds = time.monotonic() - began
        commit_shard(self._store, shard, hooks, config.row_group_rows, seconds=seconds, attempt=attempt)

    def tokens(self) -> int:
        """Tokens through the model so far."""
        return self._tokens

    def _count(self, tokens: int) -> None:
        self._tokens += tokens


class Pool:
    """Keeps every actor busy, replaces those that die, and gives up on a shard that keeps failing."""

    def __init__(self, job: Job, pending: list[Shard], context_length: int, listener: Listener) -> None:
        self._job = job
        self._pending = deque(pending)
        self._attempts: Counter[Shard] = Counter()
        self._running: dict[ray.ObjectRef, tuple[ray.actor.ActorHandle, Shard]] = {}
        self._actors: list[ray.actor.ActorHandle] = []
        self._size = min(self._affordable(), len(pending))
        self._tokens_left = sum(shard.n_sequences for shard in pending) * context_length
        self._listener = listener
        self._counts: dict[ray.actor.ActorHandle, int] = {}
        self._ready_at: float | None = None

    def run(self) -> float:
        """Harvest all pending shards; tokens per second since the first actor had its model."""
        try:
            self._actors = [self._start() for _ in range(self._size)]
            while self._pending or self._running:
                self._assign()
                ready, _ = ray.wait(list(self._running), timeout=_POLL_S)
                for reference in ready:
                    self._settle(reference)
                self._tell()
            return self._tokens_left / max(self._seconds(), _POLL_S)
        finally:
            for actor in self._actors:
                ray.kill(actor)

    def _affordable(self) -> int:
        config = self._job.config.harvest
        if config.actors is not None:
            wanted = config.actors
        elif self._job.gpus:
            wanted = int(cluster_gpus() / self._job.gpus)
        else:
            wanted = max(1, int(cluster_cpus() / config.cpus_per_actor))
        need = (wanted * config.cpus_per_actor, wanted * self._job.gpus)
        have = (cluster_cpus(), cluster_gpus())
        if need[0] > have[0] or need[1] > have[1]:
            raise InputError(
                f"{wanted} harvest actors need {need[0]:g} CPUs and {need[1]:g} GPUs, the cluster has {have[0]:g} and "
                f"{have[1]:g}. Lower harvest.actors, harvest.cpus_per_actor or harvest.gpus_per_actor."
            )
        return wanted

    def _start(self) -> ray.actor.ActorHandle:
        config = self._job.config.harvest
        actor = ray.remote(_Harvester).options(
            num_cpus=config.cpus_per_actor,
            num_gpus=self._job.gpus,
            max_concurrency=_IN_FLIGHT_PER_ACTOR + 1,  # and one for the call that asks how far it is
            scheduling_strategy="SPREAD",
        )
        return actor.remote(self._job)

    def _assign(self) -> None:
        load = Counter(actor for actor, _ in self._running.values())
        while self._pending:
            actor = min(self._actors, key=lambda a: load[a])
            if load[actor] >= _IN_FLIGHT_PER_ACTOR:
                return
            shard = self._pending.popleft()
            self._attempts[shard] += 1
            self._running[actor.harvest.remote(shard, self._attempts[shard])] = (actor, shard)
            load[actor] += 1

    def _settle(self, reference: ray.ObjectRef) -> None:
        actor, shard = self._running.pop(reference)
        try:
            ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            self._again(shard, str(error.cause))
        except RayActorError as error:
            self._replace(actor)
            self._again(shard, str(error))

    def _again(self, shard: Shard, reason: str) -> None:
        if self._attempts[shard] >= self._job.config.harvest.max_attempts:
            raise SaemillError(f"Shard {shard.name} failed {self._attempts[shard]} times, at last with: {reason}")
        logger.warning("shard %s failed and is tried again: %s", shard.name, reason.strip().splitlines()[-1])
        self._pending.append(shard)

    def _replace(self, dead: ray.actor.ActorHandle) -> None:
        if dead in self._actors:
            self._actors[self._actors.index(dead)] = self._start()
            self._counts.pop(dead, None)

    def _seconds(self) -> float:
        return time.monotonic() - self._ready_at if self._ready_at is not None else 0.0

    def _tell(self) -> None:
        asked = {actor.tokens.remote(): actor for actor in self._actors}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_POLL_S)
        for reference in ready:
            try:
                self._counts[asked[reference]] = ray.get(reference)
            except RayActorError:
                continue  # its shards' own errors say so too, and are dealt with there
        if self._ready_at is None and ready:
            self._ready_at = time.monotonic()
        done = min(sum(self._counts.values()), self._tokens_left)
        self._listener(Progress("harvest", done, self._tokens_left, per_second=done / self._seconds() if done else None))
