"""Where a step at few latents only overtakes the dense step of the same architecture: what SPARSE_BELOW is set from.

    python -m tests.benchmarks.step.paths [--quick] [--json FILE] [--rounds 5] [--archs l1 jumprelu gated] [--threads N]

Biases or thresholds are placed such that a share of all pre-activations, the density, has to be looked at. Both ways take
whole steps (loss, gradients, optimizer) of one SAE in turn, whose learning rate is too small to change the density.
``faster`` is the median over rounds of the dense step's time over the sparse one's.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.sae.config import SAEConfig
from tasks.sae.mesh import OneProcess
from tasks.sae.scaling import Scaling
from tasks.train.config import TrainConfig
from tasks.train.plan import Plan, plan
from tasks.train.step import train_step
from tasks.train.train_state import TrainState, initial_state
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.rounds import interleaved, per_second, ratio

D_IN, D_SAE, BATCH = 576, 9216, 2048
WIDTH = 0.76  # of jumprelu's window in runs of 1,000 steps
DENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
ARCHS = ("l1", "jumprelu", "gated")


def main() -> None:
    options = arguments(__doc__ or "", _add)
    torch.set_num_threads(options.threads)
    where = environment() | {"threads": options.threads}
    table: list[dict[str, Any]] = []
    for arch, precision in itertools.product(options.archs, options.precisions):
        table += rows_of(arch, precision, options)
        finish(options.json, checks_of(table), table, where)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--archs", nargs="+", choices=(*ARCHS, "l1_2023", "p_anneal", "jumprelu_l0"), default=list(ARCHS))
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    parser.add_argument("--densities", nargs="+", type=float, default=list(DENSITIES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def rows_of(arch: str, precision: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What both ways take at each density."""
    d_in, d_sae, batch = (64, 512, 256) if options.quick else (D_IN, D_SAE, BATCH)
    x = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(0))
    config = SAEConfig(arch=arch, d_in=d_in, d_sae=d_sae, k=32, l1_coefficient=0.5, l0_coefficient=1e-3, bandwidth=WIDTH)
    train = TrainConfig(tokens=batch * 1000, batch_tokens=batch, precision=precision, lr=1e-12)
    resolved = plan(config, train, d_in)
    state = initial_state(resolved, x)
    for density in options.densities:
        place(state, x, density)
        ways = {name: way(state, resolved, x, touched) for name, touched in (("dense", 1.0), ("sparse", 0.0))}
        for step in ways.values():
            step()
        found = interleaved({name: lambda step=step: per_second(batch, step) for name, step in ways.items()}, options.rounds)
        times = {f"{name}, ms": 1000 * batch / statistics.median(speeds) for name, speeds in found.items()}
        row = {"arch": arch, "precision": precision, "density": density, "found": float(state.buffers["density"])}
        yield row | times | {"faster": ratio(found["sparse"], found["dense"]), "rounds": options.rounds}


def place(state: TrainState, x: Tensor, density: float) -> None:
    """Move biases or thresholds to where the step has to look at this share of all pre-activations."""
    p = state.parameters
    pre_acts = (x[:256] @ p.encoder.T).flatten()
    level = pre_acts.kthvalue(round((1 - density) * len(pre_acts))).values
    if "log_threshold" in p.extra:
        p.b_enc.zero_()
        p.extra["log_threshold"].copy_((level + WIDTH / 2).log())
    else:
        p.b_enc.copy_(-level)


def way(state: TrainState, resolved: Plan, x: Tensor, touched: float) -> Callable[[], object]:
    """A step that follows one with this density."""
    as_it_is = Scaling(torch.zeros(x.shape[1]), torch.ones(x.shape[1]))

    def step() -> None:
        state.buffers["density"].fill_(touched)
        train_step(state, x, resolved, as_it_is, OneProcess())

    return step


def checks_of(table: list[dict[str, Any]]) -> dict[str, float]:
    """The density at which both ways take as long, for each architecture and precision; at most the largest measured."""
    checks = {}
    for (arch, precision), rows in itertools.groupby(table, lambda row: (row["arch"], row["precision"])):
        densities, gains = zip(*((row["density"], row["faster"]) for row in rows), strict=True)
        even = np.interp(0.0, -np.log(gains), np.log(densities))  # the sparse way's lead falls as density rises
        checks[f"paths_even_at_{arch}_{precision}"] = float(np.exp(even))
    return checks


if __name__ == "__main__":
    main()
