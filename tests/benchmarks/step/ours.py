"""saemill's training step, and the bare product that it cannot do without; a child of ``__main__.py``."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tasks.sae.config import SAEConfig
from tasks.sae.mesh import OneProcess
from tasks.sae.scaling import scaling
from tasks.train.config import TrainConfig
from tasks.train.plan import plan
from tasks.train.step import train_step
from tasks.train.train_state import initial_state
from tests.benchmarks.step.protocol import Step, Task, serve


def make(task: Task, first: Tensor) -> Mapping[str, Callable[[], Step]]:
    """Our step and the product; one of a small SAE has compiled the kernels."""
    small = first[:64, :64].contiguous()
    our_step(replace(task, d_in=64, d_sae=256, k=8, batch=64), small)(small)
    return {"step": lambda: our_step(task, first), "gemm": lambda: gemm(task, first)}


def our_step(task: Task, first: Tensor) -> Step:
    """``tasks.train.step.train_step``: everything that changes from step to step."""
    config = SAEConfig(arch=task.arch, d_in=task.d_in, d_sae=task.d_sae, k=task.k)
    train = TrainConfig(
        tokens=task.batch * 100_000,
        batch_tokens=task.batch,
        dead_after_tokens=10**12,
        precision="bf16" if task.bf16 else "fp32",
    )
    resolved = plan(config, train, task.d_in)
    mean = first.mean(0)
    by = scaling(mean, float((first - mean).square().sum(1).mean()))
    state = initial_state(resolved, by.apply(first).cpu(), task.device)
    return lambda x: train_step(state, x, resolved, by, OneProcess())


def gemm(task: Task, first: Tensor) -> Step:
    """The encoder's product into memory that is there already."""
    dtype = torch.bfloat16 if task.bf16 else torch.float32
    encoder = torch.randn(task.d_sae, task.d_in, device=first.device).to(dtype)
    bias = torch.zeros(task.d_sae, dtype=dtype, device=first.device)
    out = torch.empty(task.batch, task.d_sae, dtype=dtype, device=first.device)
    x = first.to(dtype)
    return lambda _: torch.addmm(bias, x, encoder.T, out=out)


if __name__ == "__main__":
    serve(make)
