"""Ray's own cluster of several nodes on one machine, each with a raylet and workers of its own, which go and come."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from tests.kills.commands import Command


@contextmanager
def cluster_of_one() -> Iterator[Cluster]:
    """A cluster whose first node is there, and stays."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def running_on_two(cluster: Cluster, command: Command) -> Iterator[psutil.Popen]:
    """The command as a process that belongs to the first node, and goes on once there is a second."""
    command.arm("connected")
    with command.running() as process:
        command.held("connected", process)
        cluster.add_node(num_cpus=1)
        command.let_go("connected")
        yield process


def second(cluster: Cluster) -> Any:
    """The one besides the first."""
    [node] = [node for node in cluster.list_all_nodes() if not node.head]
    return node


def lose_second(cluster: Cluster) -> None:
    """As a machine goes that loses its power."""
    cluster.remove_node(second(cluster), allow_graceful=False)
