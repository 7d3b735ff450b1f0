"""One script for a bare card, without Ray, Prefect and s3fs: checks results against the CPU's, and tells how long they take.

    python -m tests.benchmarks.gpu [--part kernels step harvest loop score] [--quick] [--device cuda] [--json FILE]

``kernels`` holds every operation of the card's backend against plain torch in float64, and trains all architectures on both.
``step`` times whole training steps beside the encoder's product, plain torch, and the libraries that can be imported.
``harvest`` writes a harvest into memory beside the bare forward pass, and ``loop`` tells how long training waits for rows.
``score`` surveys rows beside a bare encode pass, and holds scores of a small SAE against the CPU's.
"""

import argparse
from typing import Any

import torch

from tests.benchmarks.gpu import harvest, kernels, loop, score, step
from tests.benchmarks.gpu.part import Part, figures, written
from tests.benchmarks.harness import arguments, environment, show

PARTS = {
    "kernels": kernels.part,
    "step": step.part,
    "harvest": lambda options: figures(harvest.run(options)),
    "loop": lambda options: figures(loop.run(options)),
    "score": lambda options: figures(score.run(options)),
}


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where, found = environment() | {"device": options.device}, dict[str, Part]()
    for name in options.part:
        print(f"--- {name}", flush=True)
        found[name] = PARTS[name](options)
        show(found[name].rows)
        written(options.json, found, where)  # after each part: a run that is killed is not lost


def _add(parser: argparse.ArgumentParser) -> None:
    usual: Any = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default=usual)
    parser.add_argument("--rounds", type=int, default=15, help="of the step, in each of which everyone works in turn")
    parser.add_argument("--seconds", type=float, default=0.3, help="how long each works in a round, at least one step")


if __name__ == "__main__":
    main()
