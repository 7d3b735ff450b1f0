"""Constants of this machine's CPU for ``page.py``: a worker of one thread, alone and beside a second one.

    python -m tests.benchmarks.scaling.on_paper.constants [--rounds N]

Product: the encoder's in ``scaling/workers.py``. Memory: the table's bytes over what a step takes beside its product, so
that the table has the time of one worker's step, and what it says of two is to be checked. Links: shared memory, and gloo
on 127.0.0.1; latency is that of a number's sum, speed that of sending weights.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import torch
import torch.distributed as dist

from tasks.planner.step import COMPILED, SHARED_OUT, MeshShape, terms
from tasks.train.distributed import TorchMesh
from tests.benchmarks.scaling.on_paper.page import CHECKED
from tests.benchmarks.step.ours import gemm, our_step
from tests.benchmarks.step.protocol import Task
from tests.conftest import free_port


def work(rank: int, port: int, both: Barrier, rounds: int, pipe: Connection) -> None:
    """One of two workers: the first measures product and step alone, then both measure at once."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = Task("saemill", "topk", CHECKED.d_in, CHECKED.d_sae, CHECKED.k, CHECKED.batch, True, "cpu", 1, "")
    x = torch.randn(CHECKED.batch, CHECKED.d_in).bfloat16()
    product, step = gemm(task, x), our_step(task, x.float())
    found = {}
    timed(lambda: step(x), 3), timed(lambda: product(x), 3)  # compiles, and takes memory
    for name, turn in (("alone", rank == 0), ("both", True)):
        both.wait()
        if turn:
            found[f"product, {name}"] = timed(lambda: product(x), 3 * rounds)
            found[f"step, {name}"] = timed(lambda: step(x), rounds)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name, group in (("memory", TorchMesh().data), ("sockets", TorchMesh(in_memory=False).data)):
        number, weights = torch.zeros(1), torch.zeros(CHECKED.d_sae, CHECKED.d_in)
        found[f"a number's sum by {name}"] = timed(partial(group.all_reduce, number), 3 * rounds)
        found[f"weights by {name}"] = timed(partial(group.all_gather_in_place, [weights]), rounds)
    dist.destroy_process_group()
    pipe.send(found)


def timed(action: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest: other work on the machine only slows."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    spawn, port = multiprocessing.get_context("spawn"), free_port()
    both = spawn.Barrier(2)
    ours, theirs = spawn.Pipe()
    workers = [spawn.Process(target=work, args=(rank, port, both, rounds, theirs), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    measured = [ours.recv() for _ in workers]
    for worker in workers:
        worker.join()
    first = max(measured, key=len)
    for name, value in first.items():
        print(f"{name}: {1000 * value:.2f} ms")
    one = MeshShape(1, 1)
    step = terms(CHECKED, one, SHARED_OUT, COMPILED)
    flop, moved = sum(term.flop for term in step), sum(term.memory_bytes for term in step if not term.flop)
    for name in ("alone", "both"):
        rest = first[f"step, {name}"] - first[f"product, {name}"]
        print(f"{name}: product {flop / first[f'product, {name}']:.4g} FLOP/s, memory {moved / rest:.4g} bytes/s")
    sent = 4 * CHECKED.d_sae * CHECKED.d_in / 2
    for name in ("memory", "sockets"):
        latency = first[f"a number's sum by {name}"]
        print(f"{name}: latency {latency:.3g} s, {sent / (first[f'weights by {name}'] - latency):.4g} bytes/s")


if __name__ == "__main__":
    main()
