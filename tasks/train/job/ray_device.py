"""Which device a training gets on the Ray cluster that it is on: ``tasks.train.device`` asked, and its answer told."""

import logging

from tasks.machines import machines_of
from tasks.ray_cluster import cluster_gpus
from tasks.ray_config import RayConfig
from tasks.train.config import TrainConfig
from tasks.train.device import begun_on, settled

logger = logging.getLogger(__name__)


def on_its_device(train: TrainConfig, cluster: RayConfig, *outs: str) -> TrainConfig:
    """The settings with ``use_gpu`` true or false, which a line in the log tells where there was a choice.

    Args:
        train: as given.
        cluster: which is connected.
        outs: where the SAEs, of one training, are written, and their checkpoints are.

    Raises:
        InputError: it began on GPUs, of which there are not enough now.
    """
    begun = next((kind for kind in map(begun_on, outs) if kind is not None), None)
    machines = machines_of(cluster) if train.use_gpu == "auto" and cluster_gpus() else []
    found, told = settled(train, machines, begun)
    if told is not None:
        logger.info("training: %s", told)
    return found
