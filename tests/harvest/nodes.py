"""A harvest on a cluster that loses a node and is given another one: ``python -m tests.harvest.nodes MODEL FOLDER``.

The cluster is Ray's own of several nodes on one machine, each with a raylet and workers of its own.
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.storage.objects import open_store
from tests.composed import harvest
from tests.harvest.commands import until
from tests.harvest.conftest import places, tiny_config
from tests.harvest.kill_points import FOLDER


def computed() -> list[dict[str, Any]]:
    path = Path(os.environ[FOLDER], "computed.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def nodes() -> set[str]:
    return {one["node"] for one in computed()}


def come_and_go(cluster: Cluster) -> None:
    """Take a node away once both have worked, bring another, and see it at work too."""
    [_, second] = sorted(cluster.list_all_nodes(), key=lambda node: not node.head)
    until(lambda: len(nodes()) == 2, "two nodes at work")
    cluster.remove_node(second, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    until(lambda: len(nodes()) == 3, "the new node at work")


def main(model: str, folder: str) -> None:
    slow = Path(os.environ[FOLDER], "slow")
    slow.touch()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    config = tiny_config(model, folder)
    config = config.model_copy(update={"harvest": config.harvest.model_copy(update={"actors": None, "shard_tokens": 8})})
    shards, out = places(folder)
    [tokens] = Path(folder, "tokens").iterdir()
    with ThreadPoolExecutor(1) as thread:  # nodes start in the main thread only: they set signal handlers
        done = thread.submit(harvest, config, str(tokens), shards, out, silent)
        try:
            come_and_go(cluster)
        finally:
            slow.unlink(missing_ok=True)
        done.result()
    committed = {info.key: info.modified for info in open_store(shards).list("commits/")}
    again = [one["shard"] for one in computed() if one["began"] > committed[f"commits/{one['shard']}.json"]]
    print(json.dumps({"findings": [str(f) for f in verify(out, silent).findings], "recomputed": again, "nodes": [*nodes()]}))  # noqa: T201
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
