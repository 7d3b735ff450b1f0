"""Training on a cluster that loses a node and is given another: ``python -m tests.train.nodes FOLDER``.

Printed is where the attempts began.
"""

import json
import sys
from pathlib import Path

from ray.cluster_utils import Cluster

from tests.kills.nodes import cluster_of_one, lose_second, running_on_two, second
from tests.patience import PATIENCE_S
from tests.train.kills import ARMED_FROM, Command, make_commands


def disturb(cluster: Cluster, command: Command) -> int:
    """Take away, at each point, the node whose worker is held up there, and bring another; the command's exit code."""
    with running_on_two(cluster, command) as process:
        for point in ("step", "upload", "commit"):
            command.arm(point, ARMED_FROM, node=second(cluster).node_id)
            command.held(point, process)
            lose_second(cluster)
            cluster.add_node(num_cpus=1)
        return int(process.wait(PATIENCE_S))


def main(folder: str) -> None:
    with cluster_of_one() as cluster:
        make = make_commands(Path(folder), cluster.address, latent_shards=2)
        undisturbed, command = make("one"), make("two")
        with running_on_two(cluster, undisturbed) as process:
            assert process.wait(PATIENCE_S) == 0, undisturbed.said()
        lose_second(cluster)
        assert disturb(cluster, command) == 0, command.said()
        command.require_undisturbed(undisturbed)
        print(json.dumps({"began": [steps[0] for steps in command.attempts()]}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
