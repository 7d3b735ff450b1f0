"""A pool of Ray actors, each of which turns whole shards of sequences into stored rows; nothing passes through Ray."""

import logging
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from tasks.errors import InputError, SaemillError
from tasks.harvest.batch import Batch
from tasks.harvest.pool.actor import HarvestJob, Outcome
from tasks.harvest.pool.ranks import RankLostError, RanksOutOfMemoryError
from tasks.harvest.pool.ray_replica import Replica, start_replica
from tasks.harvest.pool.room import fitting, fitting_groups
from tasks.harvest.pool.tries import Tries
from tasks.harvest.shards import Shard
from tasks.lm.engines.errors import EngineError
from tasks.lm.engines.parity import Parity, worst
from tasks.progress import Listener, Progress
from tasks.ray_cluster import cluster_cpus, cluster_gpus, cluster_machines
from tasks.storage.objects import open_store

logger = logging.getLogger(__name__)

_POLL_S = 0.5
# How often the cluster is asked how large it is by now.
_MEASURE_S = 2.0
# A cluster that has lost its last fitting node may be given another one; an autoscaler takes about as long (guess).
_WITHOUT_ROOM_S = 120.0
# Shards whose rows are in memory when the run is stopped are stored if they can be in this time.
_STOP_S = 5.0
# Deaths in a row before any actor had its model. What its loading raises counts as harvest.max_attempts says.
_DEATHS_IN_START = 10


@dataclass(eq=False, slots=True)
class _Lane:
    """One actor, alone or with its group, and what it is doing."""

    replica: Replica
    asked: ray.ObjectRef | None
    """The question how far it is; the first answer comes when it has its model."""
    ready: bool = False
    alone: bool = False
    """Its one shard is suspected of killing actors, so it gets no other."""
    running: dict[ray.ObjectRef, Shard] = field(default_factory=dict)
    through: dict[str, int] = field(default_factory=dict)

    @property
    def actor(self) -> ray.actor.ActorHandle:
        """The one that is given shards."""
        return self.replica.actor

    def references(self) -> list[ray.ObjectRef]:
        """All that it, and its group, has been asked for."""
        found = [*self.running, *self.replica.following]
        return [*found, self.asked] if self.asked is not None else found


@dataclass(frozen=True, slots=True)
class PoolRun:
    """How a pool came through its shards."""

    tokens_per_second: float
    """Since the first actor had its model."""
    batch_sequences: list[int]
    """Sequences per forward pass that the actors came to, ascending, each number once."""
    attention: list[str]
    """Implementations of attention that the actors' models ran on, each once."""
    parity: dict[str, Parity] = field(default_factory=dict)
    """By hook, the worst that an engine of theirs was from transformers."""


class Pool:
    """Keeps every actor busy, replaces those that die, and grows and shrinks with the cluster.

    Only an actor that has its model gets work, so one that cannot start holds up nothing.
    """

    def __init__(self, job: HarvestJob, pending: list[Shard], listener: Listener, tries: Tries | None = None) -> None:
        """``tries``: shards of which more may come, in place of those that are ``pending``."""
        self._job = job
        self._store = open_store(job.out)
        self._tries = Tries(pending, job.settings.max_attempts) if tries is None else tries
        self._lanes: list[_Lane] = []
        self._outcomes: dict[_Lane, Outcome] = {}
        """The last of each actor."""
        self._total = sum(shard.n_sequences for shard in pending) * job.context_length
        self._settled = self._computed = 0
        self._listener = listener
        self._ready_at: float | None = None
        self._failed_starts: Counter[str] = Counter()
        self._batch = Batch()
        """Keeps what groups are found to have memory for; an actor alone has its own."""
        _require_room(job)
        self._room = _affordable(job)
        self._measured_at = self._had_room_at = self._told_at = time.monotonic()

    def run(self) -> PoolRun:
        """Harvest all pending shards.

        Raises:
            InputError: activations do not fit the storage dtype, or storage is full.
            SaemillError: shards were given up (after all others were stored), or no actor can start any more.
        """
        try:
            while self._tries.left:
                self._resize()
                self._assign()
                self._await()
                self._tell()
            self._report()
        finally:
            self._close()
        self._tries.raise_if_given_up()
        return PoolRun(
            self._computed / max(self._seconds(), _POLL_S),
            sorted({outcome.batch_sequences for outcome in self._outcomes.values()}),
            sorted({outcome.attention for outcome in self._outcomes.values()}),
            worst(outcome.parity for outcome in self._outcomes.values()),
        )

    def _resize(self) -> None:
        now = time.monotonic()
        if now - self._measured_at >= _MEASURE_S:
            self._room, self._measured_at = _affordable(self._job), now
        if self._room or any(lane.ready for lane in self._lanes):
            self._had_room_at = now
        elif now - self._had_room_at > _WITHOUT_ROOM_S:
            raise SaemillError(
                f"For {_WITHOUT_ROOM_S:.0f} s the cluster has had no room for one harvest actor: it has "
                f"{cluster_cpus():g} CPUs and {cluster_gpus():g} GPUs. What is stored is kept: "
                "give the same command again when there is room."
            )
        starting = [lane for lane in self._lanes if not lane.ready]
        for lane in starting[: max(0, len(self._lanes) - self._room)]:
            self._drop(lane)
        while len(self._lanes) < min(self._room, self._tries.left):
            self._lanes.append(self._start())

    def _start(self) -> _Lane:
        replica = start_replica(self._job)
        return _Lane(replica, replica.actor.progress.remote())

    def _drop(self, lane: _Lane) -> None:
        self._lanes.remove(lane)
        lane.replica.end()

    def _assign(self) -> None:
        room = self._job.in_flight
        while free := [lane for lane in self._lanes if lane.ready and not lane.alone and len(lane.running) < room]:
            lane = min(free, key=lambda lane: len(lane.running))
            shard = self._tries.next(idle=not lane.running)
            if shard is None:
                return
            lane.alone = self._tries.suspected(shard)
            lane.running[lane.actor.harvest.remote(shard, self._tries.attempt(shard))] = shard

    def _await(self) -> None:
        lanes = {reference: lane for lane in self._lanes for reference in lane.references()}
        if not lanes:
            time.sleep(_POLL_S)
            return
        ready, _ = ray.wait(list(lanes), num_returns=1, timeout=_POLL_S)
        for reference in ready:
            lane = lanes[reference]
            try:
                if reference in lane.replica.following:
                    self._left(lane, reference)
                elif reference == lane.asked:
                    self._answered(lane)
                else:
                    self._settle(lane, reference)
            except RayTaskError:
                raise
            except RayError as error:  # it died, or its node, or is out of reach; be it alive, a commit counts once
                self._lost(lane, error)

    def _answered(self, lane: _Lane) -> None:
        try:
            lane.through = ray.get(lane.asked)
        except RayTaskError as error:
            if isinstance(error.cause, EngineError):
                raise error.cause from None
            raise
        lane.asked = None
        if not lane.ready:
            lane.ready = True
            self._failed_starts.clear()
            self._ready_at = self._ready_at or time.monotonic()

    def _settle(self, lane: _Lane, reference: ray.ObjectRef) -> None:
        shard = lane.running[reference]
        try:
            outcome = ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            if isinstance(error.cause, (RankLostError, RanksOutOfMemoryError)):
                self._group_ended(lane, error)
                return
            self._tries.failed(shard, _sentence(error.cause))
        else:
            self._outcomes[lane] = outcome
            self._stored(shard, computed=outcome.computed)
        del lane.running[reference]
        lane.alone = False

    def _left(self, lane: _Lane, following: ray.ObjectRef) -> None:
        """One of a group beside the actor has ended, and the others cannot go on without it."""
        try:
            ray.get(following)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            self._group_ended(lane, error)

    def _group_ended(self, lane: _Lane, error: RayTaskError) -> None:
        if not lane.ready or not isinstance(error.cause, RanksOutOfMemoryError):
            self._lost(lane, error)
            return
        self._batch.halve(error.cause.sequences, self._job.context_length)
        self._job = replace(self._job, at_most=self._batch.at_most)
        self._drop(lane)
        self._tries.put_back(list(lane.running.values()), "its group ran out of memory and is started again")

    def _stored(self, shard: Shard, *, computed: bool) -> None:
        tokens = shard.n_sequences * self._job.context_length
        self._tries.done(shard)
        self._settled += tokens
        self._computed += tokens if computed else 0

    def _lost(self, lane: _Lane, error: RayError) -> None:
        if lane not in self._lanes:
            return  # another of its answers has said so
        self._drop(lane)
        if not lane.ready:
            self._start_failed(error)
            return
        lost = []
        for shard in lane.running.values():
            if self._store.head(shard.commit_key) is not None:  # it died between its commit and its answer
                self._stored(shard, computed=True)
            else:
                lost.append(shard)
        self._tries.died(lost, "the actor's process died, as it does when memory runs out (see harvest.batch_sequences)")

    def _start_failed(self, error: RayError) -> None:
        raised = isinstance(error, RayActorError) and error.actor_init_failed
        kind, limit = ("raised", self._job.settings.max_attempts) if raised else ("died", _DEATHS_IN_START)
        self._failed_starts[kind] += 1
        logger.warning("a harvest actor could not start: %s", _sentence(error))
        if self._failed_starts[kind] >= limit:
            raise SaemillError(f"A harvest actor could not start, {limit} times in a row, at last with: {_sentence(error)}")

    def _seconds(self) -> float:
        return time.monotonic() - self._ready_at if self._ready_at is not None else 0.0

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at < _POLL_S:
            return
        self._told_at = now
        for lane in self._lanes:
            if lane.asked is None:
                lane.asked = lane.actor.progress.remote()
        self._report()

    def _report(self) -> None:
        through = sum(lane.through.get(shard.name, 0) for lane in self._lanes for shard in lane.running.values())
        done, seconds = self._settled + through, self._seconds()
        rate = (self._computed + through) / seconds if done and seconds else None
        self._listener(Progress("harvest", done, self._total, per_second=rate))

    def _close(self) -> None:
        """End all actors; where the run ends early, what is through the model may still be stored."""
        try:
            running = [reference for lane in self._lanes for reference in lane.running]
            if running:
                for lane in self._lanes:
                    lane.actor.stop.remote()
                ray.wait(running, num_returns=len(running), timeout=_STOP_S)
        finally:
            for lane in self._lanes:
                lane.replica.end()


def _require_room(job: HarvestJob) -> None:
    """Refuse to begin with more actors than the cluster can hold, or without room for one."""
    config, n = job.settings, job.settings.gpus_per_replica
    wanted = config.actors or 1
    if n > 1 and wanted > _fitting(job):
        raise InputError(
            f"{wanted} groups of {n} harvest actors need {n * config.cpus_per_actor:g} CPUs and {n * job.gpus:g} GPUs each, "
            f"on one machine, but there is room for {_fitting(job)}. Lower harvest.gpus_per_replica or harvest.actors."
        )
    need = (wanted * config.cpus_per_actor, wanted * job.gpus)
    have = (cluster_cpus(), cluster_gpus())
    if need[0] > have[0] or need[1] > have[1]:
        raise InputError(
            f"{wanted} harvest actors need {need[0]:g} CPUs and {need[1]:g} GPUs, the cluster has {have[0]:g} and "
            f"{have[1]:g}. Lower harvest.actors, harvest.cpus_per_actor or harvest.gpus_per_actor."
        )


def _affordable(job: HarvestJob) -> int:
    """Actors, or groups of them, that the cluster has CPUs and GPUs for by now, at most ``harvest.actors``."""
    most = job.settings.actors
    return _fitting(job) if most is None else min(_fitting(job), most)


def _fitting(job: HarvestJob) -> int:
    n, each = job.settings.gpus_per_replica, (job.settings.cpus_per_actor, job.gpus)
    return fitting(cluster_cpus(), cluster_gpus(), *each) if n == 1 else fitting_groups(cluster_machines(), n, *each)


def _sentence(error: BaseException) -> str:
    """The last line of an error, where Ray and Python keep what happened."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
