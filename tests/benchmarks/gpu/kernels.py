"""Every operation of the device's backend against plain torch in float64 on the CPU, and every architecture on both."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig
from tasks.sae.kernels.backend import Backend, SelectsOfBatch
from tasks.sae.kernels.dispatch import backend_for
from tasks.sae.kernels.torch_reference import TorchBackend
from tasks.sae.kernels.types import AdamStep, AddedGradients, Coded, Copies, Entries, Part
from tasks.sae.mesh import OneProcess
from tasks.sae.parameters import Layout, Parameters, view
from tasks.sae.scaling import Scaling
from tasks.train.config import TrainConfig
from tasks.train.plan import plan
from tasks.train.step import train_step
from tasks.train.train_state import initial_state
from tests.benchmarks.gpu import part as gpu

N, D_SAE, D_IN, D_OUT, K = 700, 1000, 48, 64, 16
BOUNDS = ((D_SAE,), (60, 300, D_SAE))
TOLERANCE = 1e-5
"""Of an operation in float32, relative to the norm of what it gives."""
STEPS, QUICK_STEPS = (20, 200), (20,)
SHAKEN = 2**-24
"""Half of what float32 tells apart, relative: how far rows are moved, at random, in a CPU's run beside the CPU's run."""
FLIPPED, AMPLIFIED = 5e-3, 10
"""A latent that is active here and not there, two of them being as good as equal, moves weights by as much; and two devices
may differ by so many times what a CPU differs from itself when its rows are shaken."""
SAME_LOSS = 1e-3
"""Relative. After 20 steps a shaken CPU's is nearer but for p_anneal's (4e-3), after 200 but for that of six."""


def part(options: argparse.Namespace) -> gpu.Part:
    device = torch.device(options.device)
    ops = backend_for(torch.empty(0, device=device))
    checks = [*_selection(ops, device), *_sums(ops, device), *_copies(ops, device)]
    rows = [*checks, *_architectures(device, QUICK_STEPS if options.quick else STEPS)]
    worst = max(row["error"] for row in rows if row["most"] != "")
    wrong = [row for row in rows if row["most"] != "" and not row["error"] <= row["most"]]
    return gpu.Part({"kernels_wrong": len(wrong), "kernels_worst_error": worst}, rows)


def _row(ops: str, what: str, case: str, error: float, most: float | str = TOLERANCE) -> dict[str, Any]:
    return {"backend": ops, "what": what, "case": case, "error": error, "most": most}


def pre_activations() -> Iterator[tuple[str, Tensor]]:
    """Rows with all kinds of numbers, all of which bfloat16 holds exactly."""
    usual = torch.randn(64, 3000, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    spoilt = usual.clone()
    spoilt[3, 7], spoilt[5, -1] = torch.nan, -torch.nan
    wide = torch.randn(4, 70_000, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    yield from [("usual", usual), ("ties", usual.round()), ("zeros", torch.zeros_like(usual)), ("NaN", spoilt)]
    yield from [("few positive", usual - 3), ("all positive", usual.abs()), ("70,000 columns", wide)]


def _selection(ops: Backend, device: torch.device) -> Iterator[dict[str, Any]]:
    reference = TorchBackend()
    for name, rows in pre_activations():
        width = rows.shape[1]
        for dtype in (torch.float32, torch.bfloat16):
            given, case = rows.to(device, dtype), f"{name}, {dtype}".replace("torch.", "")
            for k in (1, 32, 500, width):
                ours, theirs = ops.select_top_k(given, k, torch.float32), reference.select_top_k(rows, k, torch.float32)
                yield _row(ops.name, f"top {k}", case, _differing(ours, theirs), 0.0)
            for count in (1, 32 * len(rows), rows.numel()) if isinstance(ops, SelectsOfBatch) else ():
                ours = ops.select_of_batch(given, count, torch.float32)
                yield _row(ops.name, f"{count} of the batch", case, _differing_of_batch(ours, rows, count), 0.0)
            for columns in (torch.arange(0, width, 7), torch.arange(0)):
                ours = ops.select_columns(given, columns.to(device), 20, torch.float32)
                theirs = reference.select_columns(rows, columns, 20, torch.float32)
                yield _row(ops.name, f"top 20 of {len(columns)} columns", case, _differing(ours, theirs), 0.0)
            for level in (0.5, torch.linspace(-1, 2, width)):
                own = level.to(dtype).float() if isinstance(level, Tensor) else level
                ours = ops.select_above(given, own.to(device) if isinstance(own, Tensor) else own, torch.float32)
                what = "above a level" if isinstance(level, float) else "above a level of its own"
                yield _row(ops.name, what, case, _differing(ours, reference.select_above(rows, own, torch.float32)), 0.0)


def _differing(ours: Entries, theirs: Entries) -> float:
    """Number of rows with other values, or with NaN in one of both only."""
    found = [[_sorted(entries.without_padding(), r) for r in range(entries.n)] for entries in (ours, theirs)]
    return float(sum(a != b for a, b in zip(*found, strict=True)))


def _differing_of_batch(ours: Entries, rows: Tensor, count: int) -> float:
    """Whether other numbers of the rows were chosen than come first when all are sorted, equal ones in their order."""
    order = rows.flatten().sort(descending=True, stable=True).indices[:count]
    expected = order[~(rows.flatten()[order] <= 0)].sort().values
    ours = ours.without_padding()
    places = ours.rows.long() * rows.shape[1] + ours.latents
    same = torch.equal(places.cpu(), expected) and torch.equal(
        ours.values.cpu().nan_to_num(-1), rows.flatten()[expected].nan_to_num(-1)
    )
    return float(not same)


def _sorted(entries: Entries, row: int) -> list[float]:
    values = entries.values[int(entries.start[row]) : int(entries.start[row + 1])]
    return [-1.0] if bool(values.isnan().any()) else sorted(values.tolist())


def entries_and_rows() -> tuple[Entries, Parameters, Tensor, Tensor]:
    """Entries of which latent 3 has one in each row, in float64, with weights, inputs and targets."""
    generator = torch.Generator().manual_seed(0)
    pre_acts = torch.randn(N, D_SAE, generator=generator, dtype=torch.float64)
    pre_acts[:, 3] = 9.0
    layout = Layout(D_IN, D_SAE, D_OUT)
    parameters = view(torch.randn(layout.size, generator=generator, dtype=torch.float64), layout)
    parameters.W_dec.div_(parameters.W_dec.norm(dim=1, keepdim=True))
    x, target = (torch.randn(N, width, generator=generator, dtype=torch.float64) for width in (D_IN, D_OUT))
    return TorchBackend().select_top_k(pre_acts, K, torch.float64), parameters, x, target


def _sums(ops: Backend, device: torch.device) -> Iterator[dict[str, Any]]:
    for bounds in BOUNDS:
        ours, again = (_results(ops, device, torch.float32, bounds) for _ in range(2))
        theirs = _results(TorchBackend(), torch.device("cpu"), torch.float64, bounds)
        for what, found in ours.items():
            expected, case = theirs[what], f"{len(bounds)} prefixes"
            error = float((found.double().cpu() - expected).norm() / expected.norm())
            yield _row(ops.name, what, case, error)
            yield _row(ops.name, f"{what} again", case, float(not torch.equal(found, again[what])), 0.0)


def _copies(ops: Backend, device: torch.device) -> Iterator[dict[str, Any]]:
    """How many numbers of the copies that an update writes are not those of the weights."""
    if not ops.copies_weights:
        return
    coded, parameters, x, target = entries_and_rows()
    layout = Layout(D_IN, D_SAE, D_OUT)
    state = [view((parameters.flat * by).abs().float().to(device), layout) for by in (1.0, 0.1, 0.1)]
    entries = Entries(coded.values.float().to(device), coded.latents.to(device), coded.start.to(device))
    part = Part(entries, None, target.float().to(device), x.float().to(device), (D_SAE,))
    weights = state[0].encoder, state[0].W_dec
    copies = Copies(*(torch.full_like(tensor, torch.nan, dtype=torch.bfloat16) for tensor in weights))
    settings = AdamStep(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, step=3, unit_norm=True, copies=copies)
    ops.by_latent([part], (0, D_SAE)).adam(*state, settings)
    wrong = sum(
        int((copy != tensor.bfloat16()).sum()) for copy, tensor in zip(copies, weights, strict=True) if copy is not None
    )
    yield _row(ops.name, "copies in bfloat16", "after Adam", float(wrong), 0.0)


def _results(ops: Backend, device: torch.device, dtype: torch.dtype, bounds: tuple[int, ...]) -> dict[str, Tensor]:
    """What each operation gives from the same numbers."""
    coded, parameters, x, target = entries_and_rows()
    entries = Entries(coded.values.to(device, dtype), coded.latents.to(device), coded.start.to(device))
    first, second, third = (
        view(parameters.flat.to(device, dtype) * by, Layout(D_IN, D_SAE, D_OUT)) for by in (1.0, 0.1, 0.0)
    )
    second.flat.abs_()
    x, target = x.to(device, dtype), target.to(device, dtype)
    at = Coded(entries, first.W_dec, bounds)
    weight = torch.full((len(bounds),), 0.3, dtype=dtype, device=device)
    rows = ops.decode_rows(target, at, weight)
    assert rows.d_values is not None
    part = Part(entries, None, rows.output_gradient, x, bounds)
    added = AddedGradients(torch.full((D_SAE,), 0.01, dtype=dtype, device=device))
    ops.by_latent([part, replace(part, x=x + 1)], (0, D_SAE), added).write(first.W_dec, third)
    found = {
        "residual": rows.residual(),
        "output_gradient": rows.output_gradient,
        "d_values": rows.d_values,
        "squared_error": rows.squared_error,
        "decoded groups": ops.decode_groups(at),
        "gradients": third.flat.clone(),
    }
    state = first, view(first.flat * 0.1, Layout(D_IN, D_SAE, D_OUT)), second
    settings = AdamStep(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, step=3, unit_norm=True)
    square = ops.by_latent([part], (0, D_SAE)).adam(*state, settings)
    return found | {"Adam": state[0].flat, "moment 1": state[1].flat, "moment 2": state[2].flat, "square": square}


def _architectures(device: torch.device, lengths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """How far weights differ after training on the device and on a CPU, relative to how far training moved them; and losses.

    Another order of sums is a difference in the last bit, which some architectures amplify, on whatever device. A CPU whose
    rows are shaken by half a bit has weights that differ, after 20 steps, by 5e-7 of most and by 5e-2 of p_anneal (Adam
    divides gradients of near 0 by their own size, and |f|^p is steepest there); after 200 by .2 of matryoshka and .7 of
    p_anneal. So an H200's 2e-2 of p_anneal from the CPU is rounding. So is its 2e-3 of matryoshka: two latents are as good
    as equal, and another one is the last of the batch. Where a shaken CPU differs by much, a bound would say nothing.
    """
    name, cpu = backend_for(torch.empty(0, device=device)).name, torch.device("cpu")
    for arch, n_steps in product(NAMES, lengths):
        there, here, shaken = (_trained(arch, *how) for how in ((device, n_steps), (cpu, n_steps), (cpu, n_steps, SHAKEN)))
        moved, amplified = (float((other[0] - here[0]).norm() / here[0].norm()) for other in (there, shaken))
        yield _row(name, f"weights, {n_steps} steps", _told(arch, amplified), moved, _most(FLIPPED, amplified))
        loss, amplified = (abs(other[1] / here[1] - 1) for other in (there, shaken))
        yield _row(name, f"loss, {n_steps} steps", _told(arch, amplified), loss, _most(SAME_LOSS, amplified))


def _told(arch: str, amplified: float) -> str:
    return f"{arch}, a shaken CPU {amplified:.0e}"


def _most(least: float, amplified: float) -> float | str:
    most = max(least, AMPLIFIED * amplified)
    return most if most < 1 else ""


def _trained(arch: str, device: torch.device, n_steps: int, shaken: float = 0.0) -> tuple[Tensor, float]:
    """The change of all weights in training, in float32, and the mean loss of its last tenth.

    ``shaken``: rows are moved by as much of themselves, at random.
    """
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(32, 32, generator=generator) * torch.arange(1, 33) ** -0.5
    batches = torch.randn(n_steps, 256, 32, generator=generator) @ axes
    batches = batches * (1 + shaken * torch.randn(batches.shape, generator=generator))
    config = SAEConfig(arch=arch, d_in=32, d_sae=128, k=8)
    resolved = plan(config, TrainConfig(tokens=256 * n_steps, batch_tokens=256, precision="fp32"), 32)
    state = initial_state(resolved, batches[0], device)
    before = state.parameters.flat.clone()
    scaling = Scaling(torch.zeros(32, device=device), torch.ones(32, device=device))
    losses = [float(train_step(state, batch, resolved, scaling, OneProcess()).sums.loss) for batch in batches.to(device)]
    return (state.parameters.flat - before).cpu(), mean(losses[-n_steps // 10 :])
