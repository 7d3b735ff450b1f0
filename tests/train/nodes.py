"""Training on a cluster that loses a node and is given another: ``python -m tests.train.nodes FOLDER``.

The cluster is Ray's own of several nodes on one machine, each with a raylet and workers of its own. Printed is where
the attempts began.
"""

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from tests.harvest.commands import kill_tree, until
from tests.patience import PATIENCE_S
from tests.train.conftest import make_run
from tests.train.kills import Command

STEPS, EVERY = 60, 20


def started(cluster: Cluster, command: Command) -> psutil.Popen:
    """The command as a process that belongs to the first node, which is the only one that stays, and a second node."""
    command.arm("connected")
    process = command.start()
    command.held("connected", process)
    cluster.add_node(num_cpus=1)
    command.let_go("connected")
    return process


def disturb(cluster: Cluster, command: Command) -> int:
    """Take away, at each point, the node whose worker is held up there, and bring another; the command's exit code."""
    process = started(cluster, command)
    try:
        for point in ("step", "upload", "commit"):
            command.arm(point, step=30, node=second(cluster).node_id)
            command.held(point, process)
            if point == "commit":
                until(lambda: command.written(2 * EVERY), "the other worker's part of the checkpoint")
            cluster.remove_node(second(cluster), allow_graceful=False)
            cluster.add_node(num_cpus=1)
        return int(process.wait(PATIENCE_S))
    finally:
        kill_tree(process)


def second(cluster: Cluster) -> Any:
    [node] = [node for node in cluster.list_all_nodes() if not node.head]
    return node


def main(folder: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    settings = {"tokens": 32 * STEPS, "checkpoint_every_tokens": 32 * EVERY, "max_failures": 5}
    config, activations = make_run(Path(folder), workers=2, latent_shards=2, **settings)
    on_cluster = config.ray.model_copy(update={"address": cluster.address, "num_cpus": None})
    config = config.model_copy(update={"ray": on_cluster})
    undisturbed, command = (
        Command(config, activations, f"{folder}/{name}/sae", Path(folder, f"{name}-points")) for name in ("one", "two")
    )
    try:
        assert started(cluster, undisturbed).wait(PATIENCE_S) == 0, undisturbed.said()
        cluster.remove_node(second(cluster))
        assert disturb(cluster, command) == 0, command.said()
        command.require_undisturbed(undisturbed)
        print(json.dumps({"began": [steps[0] for steps in command.attempts()]}))  # noqa: T201
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
