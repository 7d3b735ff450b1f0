"""Milliseconds and memory of a training step on a device, in units of the encoder's product too.

Everyone works on the same rows, in turn, in one process: the libraries with Adam and bfloat16 autocast, as in
``tests.benchmarks.step``, whose trainers these are. A library that cannot be imported is left out.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.sae.kernels import dispatch
from tasks.sae.kernels.backend import Backend
from tasks.sae.kernels.torch_reference import TorchBackend
from tests.benchmarks.gpu.part import Part
from tests.benchmarks.rounds import interleaved, ratio
from tests.benchmarks.step.ours import gemm, our_step
from tests.benchmarks.step.protocol import WARM_UP, Step, Task

SIZES = {"small": (768, 24_576, 32, 8192), "large": (4096, 65_536, 64, 16_384)}
"""d_in, d_sae, k, batch."""
QUICK = {"quick": (64, 512, 8, 256)}
LIBRARIES = ("sparsify", "dictionary_learning")
PRODUCT = "encoder product"
BATCHES = 4


def part(options: argparse.Namespace) -> Part:
    checks: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for name, size in (QUICK if options.quick else SIZES).items():
        task = Task("saemill", "topk", *size, bf16=True, device=options.device, threads=torch.get_num_threads(), rows="")
        batches = made_rows(task).split(task.batch)
        steps = contenders(task, batches[0], ["batchtopk", "matryoshka"] if name != "large" else [])
        peaks = {who: _peak(step, batches, task.device) for who, step in steps.items()}
        speeds = {who: _speed(step, batches, task, options.seconds) for who, step in steps.items()}
        found = interleaved(speeds, 3 if options.quick else options.rounds)
        ours = next(iter(steps))
        checks |= {f"{ours} over {who}, {name}": ratio(found[ours], found[who]) for who in found if who != ours}
        rows += [_row(name, who, found, peaks, task) for who in found]
    return Part(checks, rows)


def _row(name: str, who: str, found: dict[str, list[float]], peaks: dict[str, float], task: Task) -> dict[str, Any]:
    speeds = found[who]
    return {
        "size": name,
        "contender": who,
        "ms a step": 1000 * task.batch / statistics.median(speeds),
        "fastest": 1000 * task.batch / max(speeds),
        "slowest": 1000 * task.batch / min(speeds),
        "products": ratio(found[PRODUCT], speeds),
        "peak, GiB": peaks[who],
        "rounds": len(speeds),
    }


def made_rows(task: Task) -> Tensor:
    """Rows as a language model's are in the large: variance falls as 1 / rank, and the mean is as large as the deviation."""
    generator = torch.Generator(task.device).manual_seed(0)
    size = (BATCHES * task.batch, task.d_in)
    axes = torch.linalg.qr(torch.randn(task.d_in, task.d_in, generator=generator, device=task.device)).Q
    deviation = torch.arange(1, task.d_in + 1, device=task.device) ** -0.5
    mean = torch.randn(task.d_in, generator=generator, device=task.device)
    mean *= deviation.norm() / mean.norm()
    return torch.randn(size, generator=generator, device=task.device) * deviation @ axes + mean


def contenders(task: Task, first: Tensor, archs: list[str]) -> dict[str, Step]:
    """Steps by name: ours by the device's backend first, then by plain torch, the product, and the libraries' own."""
    best = dispatch.backend_for(first)
    found = {f"{best.name} topk": by(best, our_step(task, first)), "torch topk": by(TorchBackend(), our_step(task, first))}
    for arch in archs:
        found[f"{best.name} {arch}"] = by(best, our_step(Task(**vars(task) | {"arch": arch}), first))
    return found | {PRODUCT: gemm(task, first), **dict(_libraries(task, first))}


def by(backend: Backend, step: Step) -> Step:
    """A step by one backend, whatever the others choose."""

    def taken(x: Tensor) -> None:
        with only(backend):
            step(x)

    return taken


@contextmanager
def only(backend: Backend) -> Iterator[None]:
    chosen = dispatch._chosen
    dispatch._chosen = lambda device, dtype: backend  # type: ignore[assignment]
    try:
        yield
    finally:
        dispatch._chosen = chosen


def _libraries(task: Task, first: Tensor) -> Iterator[tuple[str, Step]]:
    folder = str(Path(__file__).parents[1] / "step")
    sys.path.insert(0, folder)  # there it runs in environments without this repository
    try:
        peers: Any = import_module("peers")
    finally:
        sys.path.remove(folder)
    sizes = {"d_in": task.d_in, "d_sae": task.d_sae, "k": task.k, "batch": task.batch}
    settings = peers.Settings(**sizes, n_steps=100_000, bf16=task.bf16, device=task.device)
    for library in LIBRARIES:
        try:
            yield library, peers.LIBRARIES[library](settings, first).step
        except ImportError as error:
            print(f"{library} is left out: {error}", flush=True)


def _take(step: Step, batches: tuple[Tensor, ...], device: str, n: int, first: int = 0) -> None:
    for i in range(first, first + n):
        step(batches[i % len(batches)])
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _peak(step: Step, batches: tuple[Tensor, ...], device: str) -> float:
    """What a step takes on top of what all contenders hold, after those in which kernels are compiled."""
    _take(step, batches, device, WARM_UP)
    if not device.startswith("cuda"):
        return 0.0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _take(step, batches, device, 1)
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def _speed(step: Step, batches: tuple[Tensor, ...], task: Task, seconds: float) -> Callable[[], float]:
    """Rows per second; the host waits for the device after each ten steps, as a loop that logs now and then."""

    def measured() -> float:
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            _take(step, batches, task.device, 10, n)
            n += 10
        return n * task.batch / (time.perf_counter() - began)

    return measured
