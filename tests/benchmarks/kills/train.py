"""How many kills training runs survive: ``python -m tests.benchmarks.kills.train --kills 50 --seed 0 --json kills.json``.

Every run must end with the bytes of an undisturbed one, each step's rows taken once, or this ends with an error. Speed is
not measured.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import ray

from tasks.ray_cluster import connect
from tasks.ray_config import RayConfig
from tests.benchmarks.harness import environment
from tests.train.random_kills import commands, survive


def main() -> None:
    """Parse the command line, survive, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latent-shards", type=int, default=1, help="2: the two workers hold half the latents each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tests").setLevel(logging.INFO)
    where = environment()
    connect(RayConfig(num_cpus=4))
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        make = commands(Path(folder), ray.get_runtime_context().gcs_address, options.latent_shards)
        survived = survive(make, options.kills, options.seed)
        seconds = time.monotonic() - began
    checks = {"train_kills_survived": survived.kills.total()}
    how = {"seed": options.seed, "latent_shards": options.latent_shards, "seconds": seconds}
    found = {**vars(survived), "kills": dict(survived.kills), **how}
    print(json.dumps({"checks": checks, **found}, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps({"checks": checks, "rows": [found], "environment": where}, indent=1) + "\n")


if __name__ == "__main__":
    main()
