"""Whether this tree trains and harvests as fast as a commit of before, in turn with it, on this machine.

    python -m tests.benchmarks.regression.same_speed COMMIT [--only step capture harvest] [--archs topk ...] [--rounds 15]

``step`` is a training step of each tree's own code, of 576 x 9,216 latents and 2,048 rows in float32, each tree in a
process that waits while the other works. ``capture`` is what a harvest's actor does with the demo's model, from tokens to
rows, likewise; the commit's is there twice, which tells how far apart equals are. ``harvest`` is
``saemill harvest configs/demo.yaml`` of each tree, each round into a storage of its own, by the tokens per second that it
says itself: rounds are minutes apart, so it sees no small difference on a machine that others use too. A ratio is this
tree's speed over the commit's, the median of the rounds'. The first round counts for nothing: it compiles.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tasks.sae.architectures.names import NAMES
from tests.benchmarks import ROOT
from tests.benchmarks.command_line import ran
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.regression.same_outputs import check_out
from tests.benchmarks.rounds import Contender, Found, interleaved, ratio, rows
from tests.benchmarks.step.__main__ import OURS, Child, made_rows, task_of

BEFORE, AFTER, AGAIN = "before", "this tree", "before, again"
PLACES = ("tests/benchmarks/step/ours.py", "tests/benchmarks/step_ours.py")
"""Where a tree may have the process that takes its steps, the newest first."""
Trees = Mapping[str, Path]


def main() -> None:
    options = arguments(__doc__ or "", _add)
    checks: dict[str, float] = {}
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        trees = {BEFORE: Path(folder, "before"), AFTER: ROOT}
        check_out(options.commit, trees[BEFORE])
        parts: dict[str, Callable[[], Found]] = {"capture": lambda: captures(trees, options)}
        parts["harvest"] = lambda: harvests(trees, folder, options)
        parts |= {arch: lambda arch=arch: steps(trees, arch, folder, options) for arch in options.archs}
        for part in [*(options.archs if "step" in options.only else ()), *(parts.keys() & options.only)]:
            found = {name: speeds[1:] for name, speeds in parts[part]().items()}
            checks[f"{part}_vs_before"] = ratio(found[AFTER], found[BEFORE])
            table += [
                {"part": part, **row} for row in rows(found, "rows/s" if part in options.archs else "tokens/s", BEFORE)
            ]
            finish(options.json, checks, table, environment() | {"commit": options.commit})


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("commit")
    parser.add_argument("--only", nargs="+", choices=("step", "capture", "harvest"), default=["step", "capture"])
    parser.add_argument("--archs", nargs="+", choices=NAMES, default=["topk", "batchtopk", "jumprelu", "gated"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each takes steps, or captures, in a round")
    parser.add_argument("--harvests", type=int, default=4, help="rounds of harvests")
    parser.add_argument("--tokens", type=int, default=60_000, help="of each harvest")
    parser.add_argument("--threads", type=int, default=1)


def steps(trees: Trees, arch: str, folder: str, options: argparse.Namespace) -> Found:
    """Rows per second of both trees in each round."""
    task = task_of(OURS, arch, "576", False, made_rows(folder, "576"), options.threads)
    with ExitStack() as stack:
        contenders = {}
        for name, tree in trees.items():
            child = Child(replace(task, library=name), [sys.executable, "-m", _module(tree)], tree)
            stack.callback(child.close)
            contenders[name] = lambda child=child: child.rows_per_second("step", options.seconds)
        return interleaved(contenders, options.rounds + 1)


def captures(trees: Trees, options: argparse.Namespace) -> Found:
    """Tokens per second of both trees in each round, and of the commit once more."""
    with ExitStack() as stack:
        thrice = {**trees, AGAIN: trees[BEFORE]}
        contenders = {name: stack.enter_context(_capturing(tree, options)) for name, tree in thrice.items()}
        return interleaved(contenders, options.rounds + 1)


@contextmanager
def _capturing(tree: Path, options: argparse.Namespace) -> Iterator[Contender]:
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    task = {"model": demo["model"], "hooks": demo["harvest"]["hooks"], "threads": options.threads}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("capture_child.py")), json.dumps(task)],
        cwd=tree,
        env=os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def captured() -> float:
            print(options.seconds, file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline())
            return float(answer["tokens"] / answer["seconds"])

        yield captured
        process.stdin.close()


def _module(tree: Path) -> str:
    place = next(place for place in PLACES if (tree / place).exists())
    return place.removesuffix(".py").replace("/", ".")


def harvests(trees: Trees, folder: str, options: argparse.Namespace) -> Found:
    """Tokens per second of both trees in each round."""
    settings = [f"text.max_tokens={options.tokens}", "harvest.actors=1"]

    def harvest(tree: Path) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as storage:
            activations = ran("harvest", "configs/demo.yaml", storage, settings, tree)["activations"]
            return float(json.loads(Path(activations, "run.json").read_text())["tokens_per_second"])

    return interleaved({name: lambda tree=tree: harvest(tree) for name, tree in trees.items()}, options.harvests + 1)


if __name__ == "__main__":
    main()
