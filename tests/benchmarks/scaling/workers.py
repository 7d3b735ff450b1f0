"""Training steps of one worker against two, by rows and by latents, one thread each: tokens per second and bytes sent.

    python -m tests.benchmarks.scaling.workers [--quick] [--json FILE] [--arch ARCH] [--rounds N]

d_in 576, d_sae 9216, k 32, batches of 2048, bfloat16 rows with a planted structure. Meshes are measured in turn; every
worker is a process of its own, which shares memory with the other; with --sockets they talk over gloo on 127.0.0.1.

``checks``: the median ratio of tokens per second to one worker's, and bytes sent per step over what the formula says.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist
from torch import Tensor

from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import Mesh, OneProcess
from tasks.sae.scaling import scaling
from tasks.train.config import TrainConfig
from tasks.train.distributed import TorchMesh
from tasks.train.plan import plan
from tasks.train.step import train_step
from tasks.train.train_state import initial_state, share_state
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.rounds import interleaved, rows
from tests.conftest import free_port

MESHES = {"1x1": (1, 1), "2x1": (2, 1), "1x2": (1, 2)}
"""Workers that share the rows, times parts of the latents."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is trained."""

    arch: str
    d_in: int = 576
    d_sae: int = 9216
    k: int = 32
    batch: int = 2048
    steps: int = 20
    """Measured at a time."""
    first_steps: int = 2
    """Taken before, as the other meshes have had the caches meanwhile."""


class Team:
    """The workers of a mesh, waiting to be told to take some steps."""

    def __init__(self, size: Size, mesh: tuple[int, int], *, sockets: bool = False) -> None:
        self.size, port = size, free_port()
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._workers = []
        for rank in range(mesh[0] * mesh[1]):
            ours, theirs = spawn.Pipe()
            worker = spawn.Process(target=_work, args=(size, mesh, rank, port, theirs, sockets), daemon=True)
            worker.start()
            self._pipes.append(ours)
            self._workers.append(worker)
        self.sent_bytes = 0.0
        self.run()  # compiles, and finds what is in use

    def run(self) -> float:
        """Tokens per second of some steps."""
        self._take(self.size.first_steps)
        began = time.monotonic()
        self.sent_bytes = self._take(self.size.steps) / self.size.steps
        return self.size.batch * self.size.steps / (time.monotonic() - began)

    def _take(self, steps: int) -> float:
        """The bytes sent by the worker that sends most."""
        for pipe in self._pipes:
            pipe.send(steps)
        return max(float(pipe.recv()) for pipe in self._pipes)

    def end(self) -> None:
        """Let the workers go."""
        for pipe in self._pipes:
            pipe.send(0)
        for worker in self._workers:
            worker.join()


def _work(size: Size, mesh: tuple[int, int], rank: int, port: int, pipe: Connection, sockets: bool) -> None:
    torch.set_num_threads(1)
    workers: Mesh = OneProcess()
    if mesh != (1, 1):
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=mesh[0] * mesh[1])
        workers = TorchMesh(mesh[1], in_memory=not sockets)
    step = _stepper(size, workers, rank, mesh[0] * mesh[1])
    while steps := pipe.recv():
        before = workers.traffic.sent_bytes
        for _ in range(steps):
            step()
        pipe.send(workers.traffic.sent_bytes - before)
    if mesh != (1, 1):
        dist.destroy_process_group()


def _stepper(size: Size, workers: Mesh, rank: int, n_workers: int) -> Callable[[], object]:
    train = TrainConfig(tokens=size.batch * 100_000, batch_tokens=size.batch, dead_after_tokens=10**12)
    resolved = plan(SAEConfig(arch=size.arch, d_sae=size.d_sae, k=size.k), train, size.d_in)
    batches = [_batch(size, seed) for seed in range(4)]
    mean = batches[0].float().mean(0)
    by = scaling(mean, float((batches[0].float() - mean).square().sum(1).mean()))
    state = share_state(initial_state(resolved, by.apply(batches[0]), latents=workers.latents), resolved, workers)
    own = [batch.chunk(n_workers)[rank].contiguous() for batch in batches]
    return lambda: train_step(state, own[state.step % len(own)], resolved, by, workers)


def _batch(size: Size, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.rand(size.batch, 1024, generator=generator)
    directions = torch.randn(1024, size.d_in, generator=torch.Generator().manual_seed(0))
    return (codes.where(codes > 0.97, 0) @ directions).bfloat16()


def formula(size: Size, mesh: tuple[int, int], *, sockets: bool) -> float:
    """Bytes that a worker sends in a step of topk without dead latents, in a ring; float32 but for rows and candidates."""
    a, b = mesh
    n, entries = size.batch // a, size.k / b
    gathered = (b - 1) * n // b * size.d_in * 2  # rows among those that hold other latents
    chosen = (b - 1) * n * size.k * 2  # candidates of the k largest
    rebuilt = 2 * (b - 1) / b * n * size.d_in * 4  # sums of what the parts decode to, and the gradients on them
    shared = (a - 1) * n * (size.d_in * 6 + entries * 8 + 8)  # rows, gradients on them, entries and their counts
    weights = (a - 1) / a * size.d_sae / b * (2 * size.d_in + 1) * 4 * sockets  # else they lie in common memory
    return float(gathered + chosen + rebuilt + shared + weights)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", choices=NAMES, default="topk")
    parser.add_argument("--sockets", action="store_true", help="as if workers were on different machines")
    parser.add_argument("--rounds", type=int, default=15)


def main() -> None:
    options, where = arguments(__doc__ or "", _options), environment()
    size = Size(arch=options.arch, **({"d_sae": 1024, "batch": 256, "steps": 3} if options.quick else {}))
    teams = {name: Team(size, mesh, sockets=options.sockets) for name, mesh in MESHES.items()}
    found = interleaved({name: team.run for name, team in teams.items()}, 2 if options.quick else options.rounds)
    table = rows(found, "tokens/s", against="1x1")
    for row in table:
        name = str(row["contender"])
        row |= {
            "MB sent per step": teams[name].sent_bytes / 1e6,
            "MB by the formula": formula(size, MESHES[name], sockets=options.sockets) / 1e6,
        }
    for team in teams.values():
        team.end()
    checks = {f"scaling_{name}": float(row["ratio"]) for name, row in zip(MESHES, table, strict=True) if name != "1x1"}
    finish(options.json, checks, table, where)


if __name__ == "__main__":
    main()
