"""Every architecture through the whole pipeline on the demo's activations, with the defaults of its settings.

    python -m tests.benchmarks.pipeline.architectures [--quick] [--json FILE] [--only ARCH ...] [--set NAME=VALUE ...]
                                                      [--train-only]

Each is ``saemill run configs/demo.yaml --set sae.arch=ARCH``: a Ray Train job, scores on held-out text, and a report. The
activations are harvested once; ``seconds`` are those of the training job.
"""

import argparse
from typing import Any

from tasks.sae.architectures.names import NAMES
from tasks.storage.artifacts import read_json
from tests.benchmarks.command_line import SMALL, ran
from tests.benchmarks.harness import arguments, environment, finish


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where = environment()
    verb, settings = "train" if options.train_only else "run", [*options.set, *(SMALL if options.quick else ())]
    table = []
    for arch in options.only:
        result = ran(verb, "configs/demo.yaml", options.storage, [f"sae.arch={arch}", *settings])
        table.append(timed_row(arch, result) if options.train_only else row_of(arch, result))
        print(table[-1], flush=True)
    checks: dict[str, float] = {"architectures": len(table)}
    if not options.train_only:
        checks["architectures_fvu_worst"] = max(row["FVU"] for row in table)
        checks["architectures_dead_worst"] = max(row["dead"] for row in table)
    finish(options.json, checks, table, where)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", default="runs", help="where results are kept; what is there is not made again")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--train-only", action="store_true", help="measure the training jobs' seconds alone")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings of all")


def timed_row(arch: str, result: dict[str, Any]) -> dict[str, Any]:
    timings = read_json(result["sae"], "run.json") or {}
    return {"architecture": arch, "seconds": timings["seconds"], "tokens/s": timings["tokens_per_second"]}


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
