"""A harvest that goes on while training reads it, on actors beside the training's workers."""

import threading

from tasks.errors import InputError
from tasks.harvest.config import HarvestConfig
from tasks.harvest.pool.actor import HarvestJob
from tasks.harvest.pool.ray_actor_pool import Pool
from tasks.harvest.pool.room import fitting
from tasks.harvest.ray_harvest import gpus_per_actor
from tasks.harvest.rolling.rolling import Rolling
from tasks.harvest.rolling.tries import RollingTries
from tasks.progress import Listener
from tasks.ray_cluster import cluster_cpus, cluster_gpus


def roll(job: HarvestJob, rolling: Rolling, listener: Listener, stopped: threading.Event) -> None:
    """Harvest windows until training has enough of them, or it is told to stop; for a thread of its own.

    Raises:
        InputError: activations do not fit the storage dtype, storage is full, or a window has no rows.
        SaemillError: shards were given up, or no actor can start any more.
    """
    tries = RollingTries(rolling, job.settings.max_attempts, stopped)
    if tries.left:
        Pool(job, [], listener, tries).run()


def actors_beside(settings: HarvestConfig, cpus: float, gpus: float) -> int:
    """How many actors, or groups of them, harvest on the connected cluster beside a training that takes so much of it.

    Raises:
        InputError: there is no room for one, or for ``harvest.actors``.
    """
    each, n = settings.cpus_per_actor, settings.gpus_per_replica
    gpus_each = gpus_per_actor(settings)
    there = (cluster_cpus(), cluster_gpus())
    most = max(0, fitting(there[0] - cpus, there[1] - gpus, n * each, n * gpus_each))
    wanted = settings.actors or max(1, most)
    if wanted > most:
        raise InputError(
            f"harvest.keep is window, so harvest and training run at once: {wanted} harvest actors want "
            f"{wanted * n * each:g} CPUs and {wanted * n * gpus_each:g} GPUs beside the {cpus:g} and {gpus:g} of training, "
            f"but the Ray cluster has {there[0]:g} and {there[1]:g}. Lower harvest.actors, harvest.gpus_per_actor or "
            "train.workers, or raise ray.num_cpus."
        )
    return wanted
