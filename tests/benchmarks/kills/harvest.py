"""How many kills harvests survive: ``python -m tests.benchmarks.kills.harvest --kills 100 --seed 0 --json kills.json``.

Every harvest must end with the bytes of an undisturbed one's manifest, or this ends with an error. Speed is not measured.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import ray

from tasks.ray_cluster import connect
from tasks.ray_config import RayConfig
from tests.harvest.kills import Command, write_config
from tests.harvest.random_kills import survive


def main() -> None:
    """Parse the command line, survive, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    connect(RayConfig(num_cpus=options.actors))
    settings = {"ray.address": ray.get_runtime_context().gcs_address, "harvest.actors": options.actors}
    with tempfile.TemporaryDirectory() as named:
        folder = Path(named)
        (folder / "undisturbed").mkdir()
        config_path = write_config(folder, characters=20_000)
        undisturbed = Command(config_path, str(folder / "undisturbed/runs"), folder / "undisturbed", settings)
        assert undisturbed.run() == 0, undisturbed.said()
        began = time.monotonic()
        survived = survive(undisturbed, folder, settings, options.kills, options.seed)
        seconds = time.monotonic() - began
    kills = {"kills": dict(survived.kills), "total_kills": survived.kills.total()}
    found = {**vars(survived), **kills, "seed": options.seed, "seconds": seconds}
    print(json.dumps(found, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
