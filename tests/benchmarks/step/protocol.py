"""The side of a child of ``__main__.py``: it takes training steps when told to, and says how long they took.

Children of several libraries wait beside each other and work in turn. Each reads a line of JSON at a time from stdin:
``{"run": NAME, "seconds": S}`` takes steps until S seconds are over and answers with how many and how long;
``{"peak": NAME}`` takes one and answers with the memory it needed. Needs torch and numpy alone: it runs in any library's
environment.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

WARM_UP = 3
"""Steps before the first that counts: compiled kernels and optimizers are made in them."""

Step = Callable[[Tensor], object]


@dataclass(frozen=True)
class Task:
    """What one child is to train on, and how."""

    library: str
    arch: str
    d_in: int
    d_sae: int
    k: int
    batch: int
    bf16: bool
    device: str
    threads: int
    rows: str
    """An .npy file of float32 rows, several batches of them."""


def serve(make: Callable[[Task, Tensor], Mapping[str, Callable[[], Step]]]) -> None:
    """Build what the task in argv asks for, and answer until stdin ends.

    ``make`` is given the task and the first batch, loads the library, and names the steps that can be asked for; each is
    built when it is first asked for, so that neither the library's memory nor another's is counted as a step's.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    task = Task(**json.loads(sys.argv[1]))
    torch.set_num_threads(task.threads)
    rows = torch.from_numpy(np.load(task.rows)).to(task.device)
    batches = rows.split(task.batch)
    makers = make(task, batches[0])
    before = _resident()
    steps: dict[str, Step] = {}
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        name = asked.get("run") or asked["peak"]
        if name not in steps:
            steps[name] = makers[name]()
            _take(steps[name], batches, task.device, WARM_UP)
        if "peak" in asked:
            answer = {"bytes": _peak(lambda name=name: _take(steps[name], batches, task.device, 1), task.device, before)}
        else:
            answer = _timed(steps[name], batches, task.device, asked["seconds"])
        print(json.dumps(answer), file=answers, flush=True)


def _timed(step: Step, batches: tuple[Tensor, ...], device: str, seconds: float) -> dict[str, float]:
    began, n = time.perf_counter(), 0
    while True:
        _take(step, batches, device, 1, n)
        n += 1
        taken = time.perf_counter() - began
        if taken >= seconds:
            return {"steps": n, "seconds": taken}


def _take(step: Step, batches: tuple[Tensor, ...], device: str, n: int, first: int = 0) -> None:
    for i in range(first, first + n):
        step(batches[i % len(batches)])
    if device == "cuda":
        torch.cuda.synchronize()


def _peak(work: Callable[[], None], device: str, before: int) -> int:
    """Bytes held at the highest point of ``work``, on top of those held before the SAE was made."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew from what is held now (man 5 proc)
    work()
    return _resident("VmHWM") - before


def _resident(name: str = "VmRSS") -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
