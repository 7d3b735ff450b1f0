"""What two workers on one machine tell each other in a training step: through shared memory against gloo's loopback.

    python -m tests.benchmarks.scaling.collectives [--quick] [--json FILE] [--rounds N]

``checks``: how many times as long as through memory each takes through sockets, medians of interleaved rounds.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tasks.train.distributed import TorchMesh, TorchProcessGroup
from tests.benchmarks.harness import arguments, environment, finish
from tests.conftest import free_port

ROWS, D_IN, D_SAE = 2048, 576, 9216


def _work(rank: int, port: int, rounds: int, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    groups = {"memory": TorchMesh().data, "sockets": TorchMesh(in_memory=False).data}
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, group in groups.items():
            for what, act in _acts(group).items():
                dist.barrier()
                began = time.perf_counter()
                act()
                found.setdefault((what, name), []).append(time.perf_counter() - began)
    if rank == 0:
        results.put(found)
    dist.barrier()
    dist.destroy_process_group()


def _acts(group: TorchProcessGroup) -> dict[str, Callable[[], object]]:
    decoded, rows, number = torch.rand(ROWS, D_IN), torch.rand(ROWS // 2, D_IN).bfloat16(), torch.rand(1)
    weights = [torch.rand(D_SAE, D_IN) for _ in range(2)]
    return {
        "a number's sum": lambda: group.all_reduce(number),
        "1.2 MB of rows": lambda: group.all_gather([rows]),
        "sum of 4.7 MB": lambda: group.all_reduce(decoded),
        "42 MB of weights": lambda: group.all_gather_in_place(weights),
    }


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=25)


def main() -> None:
    options, where = arguments(__doc__ or "", _options), environment()
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_work, (free_port(), 3 if options.quick else options.rounds, results), nprocs=2)
    found: dict[tuple[str, str], list[float]] = results.get()
    table = []
    for what in dict.fromkeys(what for what, _ in found):
        memory, sockets = (median(found[what, name]) for name in ("memory", "sockets"))
        table.append({"message": what, "memory ms": memory * 1e3, "sockets ms": sockets * 1e3, "ratio": sockets / memory})
    checks = {f"collectives_{row['message'].replace(' ', '_')}": float(row["ratio"]) for row in table}
    finish(options.json, checks, table, where)


if __name__ == "__main__":
    main()
