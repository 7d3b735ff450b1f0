"""One replica of the model: an actor, or a group of actors on one machine that hold it together."""

import uuid
from dataclasses import dataclass, field

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tasks.harvest.pool.actor import Harvester, HarvestJob
from tasks.harvest.pool.follower import Follower
from tasks.harvest.pool.ranks import Seat


@dataclass(frozen=True, slots=True)
class Replica:
    """What has been started; each of a group's actors ends with the others."""

    actor: ray.actor.ActorHandle
    """The one that harvests."""
    followers: list[ray.actor.ActorHandle] = field(default_factory=list)
    following: list[ray.ObjectRef] = field(default_factory=list)
    """Calls of the followers that end only with the group."""
    place: PlacementGroup | None = None

    def end(self) -> None:
        """Kill all of it."""
        for actor in (self.actor, *self.followers):
            ray.kill(actor)
        if self.place is not None:
            remove_placement_group(self.place)


def start_replica(job: HarvestJob) -> Replica:
    """Ask Ray for a replica, which answers when there is room for all of it and the model is loaded."""
    if job.settings.gpus_per_replica == 1:
        return Replica(_harvester(job, "SPREAD").remote(job))
    return _start_group(job, job.settings.gpus_per_replica)


def _start_group(job: HarvestJob, n: int) -> Replica:
    # Room for all at once: two groups that had a part of it each would wait for ever. On one machine, which they share a
    # file of, and whose GPUs talk to each other faster than machines do.
    share = {"CPU": job.settings.cpus_per_actor} | ({"GPU": job.gpus} if job.gpus else {})
    place = placement_group([share] * n, strategy="STRICT_PACK")
    first, *others = (PlacementGroupSchedulingStrategy(place, placement_group_bundle_index=i) for i in range(n))
    meeting = uuid.uuid4().hex
    actor = _harvester(job, first).remote(job, Seat(0, n, meeting))
    followers = [
        ray.remote(Follower)
        .options(num_cpus=job.settings.cpus_per_actor, num_gpus=job.gpus, scheduling_strategy=there)
        .remote(job, Seat(rank, n, meeting))
        for rank, there in enumerate(others, start=1)
    ]
    return Replica(actor, followers, [follower.follow.remote() for follower in followers], place)


def _harvester(job: HarvestJob, where: str | PlacementGroupSchedulingStrategy) -> ray.actor.ActorClass:
    return ray.remote(Harvester).options(
        num_cpus=job.settings.cpus_per_actor,
        num_gpus=job.gpus,
        max_concurrency=job.in_flight + 2,  # and the calls that ask how far it is and that stop it
        scheduling_strategy=where,
    )
