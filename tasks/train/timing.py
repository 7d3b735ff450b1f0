"""Where the time of a training run goes: to steps, to waiting for rows, to the other workers."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from tasks.train.plan import Plan

_PRODUCTS = 5


@dataclass(slots=True)
class Timing:
    """Sums over all attempts up to the checkpoint that this was read from, of one worker."""

    seconds: float = 0.0
    """From the first batch being asked for, all in all."""
    waiting: float = 0.0
    """Of those, until the next batch was there."""
    saving: float = 0.0
    """Of those, with telling of progress, and for checkpoints: until the state is copied, and the one before is stored."""
    exchanging: float = 0.0
    """Of those, in exchanges with other workers, waiting for slower ones included; on GPUs only what the host sees of it."""
    sent_bytes: float = 0.0
    """Sent by this worker to others."""
    read_bytes: int = 0
    """Stored rows handed to this worker's steps."""


def accounts(
    timing: Timing,
    plan: Plan,
    world_size: int,
    price_per_hour: float | None,
    device: str = "cpu",
    most_rows: int | None = None,
) -> dict[str, Any]:
    """What run.json says about a finished run: rates, shares of time, and bytes a step of this worker.

    ``gemm_share`` is the part of a step that the encoder's bare product would take, in the run's precision, on this worker's
    rows and threads, measured now: 1 is the physical limit of a step. ``most_rows`` is how many of them memory has room for
    at once, where that is known. ``read_gb_per_second_wanted`` is what all workers would read if none ever waited for rows,
    ``read_gb_per_second`` what they did read.
    """
    tokens, steps = plan.n_steps * plan.batch_rows, plan.n_steps
    stepping, training = timing.seconds - timing.waiting - timing.saving, timing.seconds - timing.saving
    step_seconds, read_gb = stepping / steps, timing.read_bytes * world_size / 1e9
    rows = plan.batch_rows // world_size
    at_once = min(rows, most_rows or rows)
    gemm_seconds = encoder_product_seconds(plan, at_once, device) * rows / at_once
    product_flop = 2 * rows * plan.layout.d_in * plan.layout.d_sae
    hours = timing.seconds / 3600
    return {
        "device": torch.device(device).type,
        "training_seconds": timing.seconds,
        "tokens_per_second": tokens / timing.seconds if timing.seconds else None,
        "waiting_share": timing.waiting / timing.seconds if timing.seconds else None,
        "saving_share": timing.saving / timing.seconds if timing.seconds else None,
        "exchange_share": timing.exchanging / timing.seconds if timing.seconds else None,
        "sent_bytes_per_step": timing.sent_bytes / steps,
        "read_bytes": timing.read_bytes * world_size,
        "read_gb_per_second_wanted": read_gb / stepping if stepping > 0 else None,
        "read_gb_per_second": read_gb / training if training > 0 else None,
        "gemm_share": gemm_seconds / step_seconds if step_seconds > 0 else None,
        "gemm_flop_per_second": product_flop / gemm_seconds,
        "price_per_million_tokens": hours * price_per_hour * 1e6 / tokens if price_per_hour is not None else None,
    }


def encoder_product_seconds(plan: Plan, rows: int, device: str = "cpu") -> float:
    """Median time of the bare product of ``rows`` rows with the encoder."""
    dtype = torch.bfloat16 if plan.bf16 else torch.float32
    x, encoder = (torch.rand(n, plan.layout.d_in, device=device).to(dtype) for n in (rows, plan.layout.d_sae))
    times = []
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        float((x @ encoder.T)[0, 0])  # waits for the device
        times.append(time.perf_counter() - began)
    return median(times[1:])
