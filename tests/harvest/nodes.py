"""A harvest on a cluster that loses a node and is given another one: ``python -m tests.harvest.nodes CONFIG FOLDER``."""

import json
import sys
from pathlib import Path

from tasks.harvest.verify import verify
from tasks.progress import silent
from tests.harvest.kills import Command
from tests.kills.nodes import cluster_of_one, lose_second, running_on_two
from tests.patience import PATIENCE_S

PAUSE_S = 4.0
"""Of each batch, so that there is work for whoever comes."""


def main(config_path: str, folder: str) -> None:
    """Take a node away once both have worked, bring another, and see it at work too."""
    with cluster_of_one() as cluster:
        command = Command(Path(config_path), f"{folder}/runs", Path(folder, "points"), {"ray.address": cluster.address})
        command.pause_s = PAUSE_S

        def nodes() -> set[str]:
            return {one["node"] for one in command.noted()}

        with running_on_two(cluster, command) as process:
            command.until(lambda: len(nodes()) == 2, "two nodes were at work", process)
            lose_second(cluster)
            cluster.add_node(num_cpus=1)
            command.until(lambda: len(nodes()) == 3, "the new node was at work", process)
            command.hurry()
            assert process.wait(PATIENCE_S) == 0, command.said()
        findings = [str(finding) for finding in verify(command.out.uri, silent).findings]
        print(json.dumps({"findings": findings, "recomputed": command.recomputed(), "nodes": [*nodes()]}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
