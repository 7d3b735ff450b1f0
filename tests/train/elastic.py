"""Training that goes on with one worker while a node is lost, and with two again: ``python -m tests.train.elastic FOLDER``.

Printed is how many rows of a batch the first worker of each attempt read, and how far the weights are from those of a run
by one worker that nobody disturbed.
"""

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tasks.sae import load
from tasks.sae.mesh import OneProcess
from tasks.train.worker import Worker
from tests.composed import run_settings
from tests.harvest.commands import kill_tree, until
from tests.patience import PATIENCE_S
from tests.train.conftest import make_run
from tests.train.kills import Command, surviving

STEPS, EVERY, BATCH = 1500, 20, 32


def disturb(cluster: Cluster, command: Command) -> int:
    """Take a node away, and bring another once one worker has gone on alone; the command's exit code."""
    process = command.start()
    try:
        until(lambda: shares(command) == [16], "two workers")
        command.arm("step", step=2 * EVERY + 5)
        command.held("step", process)
        [node] = [node for node in cluster.list_all_nodes() if not node.head]
        cluster.remove_node(node, allow_graceful=False)
        command.let_go("step")
        until(lambda: shares(command) == [16, 32], "one worker that has gone on alone")
        cluster.add_node(num_cpus=1)
        until(lambda: shares(command) == [16, 32, 16], "two workers again")
        command.hurry()
        return int(process.wait(PATIENCE_S))
    finally:
        kill_tree(process)


def shares(command: Command) -> list[int]:
    """Rows of a batch that the first worker of each attempt has read."""
    rows = {taken.pid: taken.rows for taken in command.taken() if taken.place == (0, 0)}
    return list(rows.values())


def main(folder: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    settings = {"tokens": BATCH * STEPS, "checkpoint_every_tokens": BATCH * EVERY, "max_failures": 5}
    config, activations = make_run(Path(folder), workers=2, min_workers=1, **settings)
    alone = Worker(run_settings(config), activations, f"{folder}/alone", OneProcess())
    alone.finish(alone.train())
    on_cluster = config.ray.model_copy(update={"address": cluster.address, "num_cpus": None})
    config = config.model_copy(update={"ray": on_cluster})
    command = Command(config, activations, f"{folder}/elastic/sae", Path(folder, "points"), pause_s=0.1)
    try:
        assert disturb(cluster, command) == 0, command.said()
        begun = [(taken.pid, taken.step) for taken in command.taken() if taken.place == (0, 0)]
        assert surviving(begun) == list(range(1, STEPS + 1))
        found, expected = (load(f"{folder}/{name}").W_dec for name in ("elastic/sae", "alone"))
        difference = float((found - expected).norm() / expected.norm())
        print(json.dumps({"shares": shares(command), "difference": difference}))  # noqa: T201
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
