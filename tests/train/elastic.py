"""Training that goes on with one worker while a node is lost, and with two again: ``python -m tests.train.elastic FOLDER``.

Printed is how many rows of a batch the first worker of each attempt read, and how far the weights are from those of a run
by one worker that nobody disturbed.
"""

import json
import sys
from pathlib import Path

from ray.cluster_utils import Cluster

from tasks.sae import load
from tasks.sae.mesh import OneProcess
from tasks.train.worker import Worker
from tests.composed import run_settings
from tests.kills.nodes import cluster_of_one, lose_second, running_on_two
from tests.patience import PATIENCE_S
from tests.train.kills import Command, make_commands, surviving

STEPS, EVERY = 1500, 20


def disturb(cluster: Cluster, command: Command) -> int:
    """Take a node away, and bring another once one worker has gone on alone; the command's exit code."""
    with running_on_two(cluster, command) as process:
        command.until(lambda: shares(command) == [16], "two workers were there", process)
        command.arm("step", step=2 * EVERY + 5)
        command.held("step", process)
        lose_second(cluster)
        command.let_go("step")
        command.until(lambda: shares(command) == [16, 32], "one worker had gone on alone", process)
        cluster.add_node(num_cpus=1)
        command.until(lambda: shares(command) == [16, 32, 16], "there were two workers again", process)
        command.hurry()
        return int(process.wait(PATIENCE_S))


def shares(command: Command) -> list[int]:
    """Rows of a batch that the first worker of each attempt has read."""
    rows = {taken.pid: taken.rows for taken in command.taken() if taken.place == (0, 0)}
    return list(rows.values())


def main(folder: str) -> None:
    with cluster_of_one() as cluster:
        command = make_commands(Path(folder), cluster.address, STEPS, EVERY, pause_s=0.1, min_workers=1)("elastic")
        alone = Worker(run_settings(command.config), command.activations, f"{folder}/alone", OneProcess())
        alone.finish(alone.train())
        assert disturb(cluster, command) == 0, command.said()
        begun = [(taken.pid, taken.step) for taken in command.taken() if taken.place == (0, 0)]
        assert surviving(begun) == list(range(1, STEPS + 1))
        found, expected = (load(out).W_dec for out in (command.out, alone.out))
        difference = float((found - expected).norm() / expected.norm())
        print(json.dumps({"shares": shares(command), "difference": difference}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
