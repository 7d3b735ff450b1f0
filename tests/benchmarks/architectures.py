"""Every architecture through the whole pipeline on the demo's activations, with the defaults of its settings.

    python -m tests.benchmarks.architectures [--quick] [--json FILE] [--only ARCH ...] [--set NAME=VALUE ...]

Each is ``saemill run configs/demo.yaml --set sae.arch=ARCH``: a Ray Train job, scores on held-out text, and a report. The
activations are harvested once; ``seconds`` are those of the training job.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.artifacts import read_json
from tasks.sae.registry import NAMES
from tests.benchmarks.demo import SMALL
from tests.benchmarks.harness import arguments, environment, finish

ROOT = Path(__file__).parents[2]


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where = environment()
    overrides = [part for setting in options.set for part in ("--set", setting)] + (SMALL if options.quick else [])
    table = []
    for arch in options.only:
        table.append(row_of(arch, ran(arch, options.storage, overrides)))
        print(table[-1], flush=True)
    checks = {
        "architectures": len(table),
        "architectures_fvu_worst": max(row["FVU"] for row in table),
        "architectures_dead_worst": max(row["dead"] for row in table),
    }
    finish(options.json, checks, table, where)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", default="runs", help="where results are kept; what is there is not made again")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings of all")


def ran(arch: str, storage: str, overrides: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "flows.cli", "run", "configs/demo.yaml", "--set", f"sae.arch={arch}"]
    done = subprocess.run(
        [*command, "--storage", storage, "--json", *overrides], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def row_of(arch: str, result: dict[str, Any]) -> dict[str, Any]:
    summary, timings = result["summary"], read_json(result["sae"], "run.json") or {}
    return {
        "architecture": arch,
        "FVU": summary["fvu"],
        "FVU without high norms": summary["fvu_without_high_norm"],
        "L0": summary["l0"],
        "dead": summary["dead_fraction"],
        "CE recovered": summary["ce_recovered"],
        "seconds": timings.get("seconds"),
    }


if __name__ == "__main__":
    main()
