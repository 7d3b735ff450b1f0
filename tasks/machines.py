"""The machines that do the work of a run, as they say of themselves."""

from collections.abc import Sequence
from dataclasses import replace

from tasks.gpus import visible_gpus
from tasks.precision import Machine, this_machine
from tasks.ray_config import RayConfig


def machines_of(cluster: RayConfig) -> Sequence[Machine]:
    """Of a Ray cluster that is joined its nodes, with the GPUs that it gives away; else this machine.

    Raises:
        InputError: the cluster does not answer, or has no machine that could say what it is.
    """
    if cluster.address is None:
        return [this_machine(gpus=visible_gpus())]
    from tasks.ray_cluster import ask_nodes, connect  # Ray takes a second to import

    connect(cluster)
    return ask_nodes(machine_of_node)


def machine_of_node(n_gpus: int) -> Machine:
    """A node of the cluster, which gives away so many of its GPUs."""
    found = this_machine(gpus=n_gpus > 0)
    return replace(found, gpus=found.gpus[:n_gpus])
