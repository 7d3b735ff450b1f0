"""One training step of a TopK SAE: saemill, SAELens, dictionary_learning, sparsify, and the bare encoder product.

    python -m tests.benchmarks.step [--quick] [--json FILE] [--rounds 15] [--sizes 576 768] [--precisions bf16 fp32]

A step is everything that a trainer does with a batch: loss, gradients, decoder constraint, optimizer, counts of dead
latents. Each library runs in an environment of its own in a process of its own, all on the same rows and threads, one at a
time and in turn; peers with Adam, and with bf16 autocast where bf16 is asked for. ``gemms`` is a step's time over that of
the product x W_enc + b_enc in the same precision, ``peak`` the memory of a step on top of libraries and rows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.sae.architectures.names import NAMES
from tests.benchmarks import ROOT
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.peers.venv import make_venv
from tests.benchmarks.rounds import interleaved, ratio
from tests.benchmarks.step.protocol import Task

PEERS = ("sparsify", "saelens", "dictionary_learning")
SIZES = {  # d_in, d_sae, k, batch
    "576": (576, 9216, 32, 2048),
    "768": (768, 24576, 32, 4096),
    "cuda_768": (768, 24576, 32, 8192),
    "cuda_4096": (4096, 65536, 64, 16384),
}
BATCHES = 4
OURS, GEMM = "saemill", "encoder product"


class Child:
    """A library waiting to be told to take steps."""

    def __init__(self, task: Task, command: Sequence[str], tree: Path = ROOT) -> None:
        self.task = task
        self._process = subprocess.Popen(
            [*command, json.dumps(asdict(task))],
            cwd=tree,
            env=os.environ | {"OMP_NUM_THREADS": str(task.threads), "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> dict[str, float]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps(question), file=stdin, flush=True)
        line = stdout.readline()
        if not line:
            raise SystemExit(f"{self.task.library} ended with exit code {self._process.wait()}; see what it wrote above.")
        answer: dict[str, float] = json.loads(line)
        return answer

    def rows_per_second(self, what: str, seconds: float) -> float:
        answer = self.ask({"run": what, "seconds": seconds})
        return answer["steps"] * self.task.batch / answer["seconds"]

    def peak_mib(self) -> float:
        return self.ask({"peak": "step"})["bytes"] / 2**20

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _script(library: str) -> list[str]:
    return ["-m", "tests.benchmarks.step.ours"] if library == OURS else [str(Path(__file__).with_name("peers.py"))]


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where = environment() | {"threads": options.threads}
    checks: dict[str, float] = {}
    table: list[dict[str, Any]] = []
    pythons = {OURS: sys.executable} | {name: make_venv(name).python for name in options.peers}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            path = made_rows(folder, size)
            for precision in options.precisions:
                part = f"{precision}_{size}"
                task = task_of(OURS, "topk", size, precision == "bf16", path, options.threads)
                print(f"--- {part}: {task.d_in} x {task.d_sae}, k {task.k}, batch {task.batch}", flush=True)
                found, peaks = rivals(task, pythons, options.rounds, options.seconds)
                checks |= checks_of(found, part)
                table += rows_of(found, peaks, part, task.batch)
                table += others(task, options.archs, pythons[OURS], max(1, options.rounds // 3), options.seconds, part)
                finish(options.json, checks, table, where)  # after each part: a run that is killed is not lost


def _add(parser: argparse.ArgumentParser) -> None:
    quick = "--quick" in sys.argv
    usual = [name for name in SIZES if torch.cuda.is_available() or not name.startswith("cuda")]
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["576"] if quick else usual)
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=3 if quick else 15)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each works in a round, at least one step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    archs = [name for name in NAMES if name != "topk"]
    parser.add_argument("--archs", nargs="*", choices=archs, default=[] if quick else archs, help="more of ours")


def task_of(library: str, arch: str, size: str, bf16: bool, path: str, threads: int) -> Task:
    d_in, d_sae, k, batch = SIZES[size]
    device = "cuda" if size.startswith("cuda") else "cpu"
    return Task(library, arch, d_in, d_sae, k, batch, bf16, device, threads, path)


def made_rows(folder: str, size: str) -> str:
    """Rows as a language model's are in the large: variance falls as 1 / rank, and the mean is as large as the deviation."""
    d_in, _, _, batch = SIZES[size]
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.standard_normal((d_in, d_in)))[0].astype(np.float32)
    deviation = (np.arange(1, d_in + 1) ** -0.5).astype(np.float32)
    rows = random.standard_normal((BATCHES * batch, d_in), np.float32) * deviation @ axes
    mean = random.standard_normal(d_in).astype(np.float32)
    mean *= np.sqrt((deviation**2).sum()) / np.linalg.norm(mean)
    path = f"{folder}/{size}.npy"
    np.save(path, rows + mean)
    return path


@contextmanager
def children(tasks: Sequence[Task], pythons: dict[str, str]) -> Iterator[dict[str, Child]]:
    with ExitStack() as stack:
        found = {}
        for task in tasks:
            found[task.library] = Child(task, [pythons[task.library], *_script(task.library)])
            stack.callback(found[task.library].close)
        yield found


def rivals(
    task: Task, pythons: dict[str, str], rounds: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Rows per second of everyone in each round, and the peak of a step of each in MiB."""
    tasks = [Task(**asdict(task) | {"library": library}) for library in pythons]
    with children(tasks, pythons) as found:
        peaks = {name: child.peak_mib() for name, child in found.items()}
        contenders = {name: lambda child=child: child.rows_per_second("step", seconds) for name, child in found.items()}
        contenders[GEMM] = lambda: found[OURS].rows_per_second("gemm", seconds)
        contenders[GEMM]()  # memory for its result is taken now
        return interleaved(contenders, rounds), peaks


def others(task: Task, archs: list[str], python: str, rounds: int, seconds: float, part: str) -> list[dict[str, Any]]:
    """Our other architectures, each beside the bare product alone."""
    rows = []
    for arch in archs:
        name = f"{OURS} {arch}"
        with children([Task(**asdict(task) | {"arch": arch})], {OURS: python}) as found:
            child = found[OURS]
            peak = child.peak_mib()
            contenders = {
                name: lambda child=child: child.rows_per_second("step", seconds),
                GEMM: lambda child=child: child.rows_per_second("gemm", seconds),
            }
            speeds = interleaved(contenders, rounds)
        rows += rows_of(speeds, {name: peak}, part, task.batch, names=[name])
    return rows


def checks_of(found: dict[str, list[float]], part: str) -> dict[str, float]:
    against = {f"step_vs_{name}_{part}": ratio(found[OURS], found[name]) for name in PEERS if name in found}
    return against | {f"step_gemms_{part}": ratio(found[GEMM], found[OURS])}


def rows_of(
    found: dict[str, list[float]], peaks: dict[str, float], part: str, batch: int, names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    return [
        {
            "part": part,
            "contender": name,
            "ms a step": 1000 * batch / statistics.median(speeds),
            "fastest": 1000 * batch / max(speeds),
            "slowest": 1000 * batch / min(speeds),
            "tokens/s": statistics.median(speeds),
            "gemms": ratio(found[GEMM], speeds),
            "peak, MiB": peaks.get(name, ""),
            "rounds": len(speeds),
        }
        for name, speeds in found.items()
        if names is None or name in names
    ]


if __name__ == "__main__":
    main()
