"""A Ray cluster of two nodes of one CPU each, in a process of its own; started by ``__main__.py``.

Each line on stdin is a number of actors; the answer is a line of JSON: the harvest's tokens per second.
"""

import json
import os
import sys

import ray
from ray.cluster_utils import Cluster

from flows.config import PipelineConfig
from tests.benchmarks.harvest.rivals import Work, on_ray


def main() -> None:
    given = json.loads(sys.argv[1])
    work = Work(**given)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints as it likes
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    for line in sys.stdin:
        rate = on_ray(work, _config(work, int(line), cluster.address))()
        print(json.dumps(rate), file=answers, flush=True)
    ray.shutdown()
    cluster.shutdown()


def _config(work: Work, actors: int, address: str) -> PipelineConfig:
    # An actor takes the whole CPU of its node, so two of them are on two nodes.
    config = work.config("bfloat16", actors=actors, cpus_per_actor=1)
    return config.model_copy(update={"ray": config.ray.model_copy(update={"address": address})})


if __name__ == "__main__":
    main()
