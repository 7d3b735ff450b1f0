"""The training loop on one card: how long its steps wait for rows that lie as Parquet in memory.

Beside it the same steps on one batch that stays on the card, which no reader can hold up. Without a card, or with
``--quick``, a tiny SAE shows that it works.
"""

import itertools
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.activations.schema import RowFormat, from_float32
from tasks.activations.writer import Rows, encode_shard
from tasks.hook_roles import HookRoles
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import write_manifest
from tasks.storage.objects import open_store
from tasks.train.config import TrainConfig
from tasks.train.loop import Stepper, timed
from tasks.train.run_settings import RunSettings
from tasks.train.worker import Worker

HOOK = "layer"
SHARD_ROWS, ROW_GROUP_ROWS = 32_768, 4_096
WARM_STEPS = 10
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Size:
    """An SAE, its batches, and how many rows there are for them."""

    d_in: int
    batch: int
    d_sae: int
    k: int
    steps: int
    shards: int


SIZES = (Size(2048, 4096, 16_384, 32, 400, 16), Size(4096, 16_384, 65_536, 64, 60, 16))
TINY = Size(64, 256, 256, 8, 30, 1)


def run(options: Any) -> dict[str, Any]:
    """Rates and shares of waiting, by the SAE's sizes."""
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    small = device == "cpu" or getattr(options, "quick", False)
    sizes = (TINY,) if small else SIZES
    return {f"d_in {size.d_in}, batch {size.batch}, d_sae {size.d_sae}": measured(size, device) for size in sizes}


def measured(size: Size, device: str) -> dict[str, Any]:
    """One SAE's figures; rows come from Parquet, then from the card."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        worker = Worker(_settings(size), _stored(folder, size), f"{folder}/sae", OneProcess(), device)
        read, waiting = _steps(worker, worker.batches(0), size)
        resident, _ = _steps(worker, itertools.repeat(next(iter(worker.batches(0)))), size)
    return {
        "rows_per_second": read,
        "gb_per_second": read * 2 * size.d_in / 1e9,
        "waiting_share": waiting,
        "rows_per_second_if_on_the_card": resident,
        "of_that": read / resident,
    }


def _steps(worker: Worker, batches: Iterable[Tensor], size: Size) -> tuple[float, float]:
    """Rows per second and the share of time that was waited for them, without the first steps."""
    stepper = Stepper(worker.start(), worker.plan, worker.scaling)
    began, waiting = 0.0, 0.0
    for raw, waited in timed(batches):
        stepper.take(raw, waited)
        waiting += waited
        if stepper.run.state.step == WARM_STEPS:
            _wait_for(worker.device)
            began, waiting = time.perf_counter(), 0.0
        if stepper.done:
            break
    _wait_for(worker.device)
    seconds = time.perf_counter() - began
    return size.steps * size.batch / seconds, waiting / seconds


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _settings(size: Size) -> RunSettings:
    train = TrainConfig(
        tokens=(WARM_STEPS + size.steps) * size.batch,
        batch_tokens=size.batch,
        precision="bf16",
        checkpoint_every_tokens=10**12,
    )
    return RunSettings(
        sae=SAEConfig(arch="topk", d_sae=size.d_sae, k=size.k), train=train, hooks=HookRoles.of_sae(HOOK), model="random"
    )


def _stored(folder: str, size: Size) -> str:
    """An activations directory of random rows in bfloat16: one shard's rows under the names of several."""
    uri, numbers = f"{folder}/activations/bench-{'0' * 12}", np.random.default_rng(0)
    exact = numbers.standard_normal((SHARD_ROWS, size.d_in), np.float32)
    places = np.arange(SHARD_ROWS)
    rows = Rows(from_float32(exact, "bfloat16"), places.astype(np.int32), places, np.zeros(SHARD_ROWS, np.int32))
    encoded = encode_shard(rows, RowFormat(size.d_in, "bfloat16", HOOK, "random", "", "0" * 12), ROW_GROUP_ROWS)
    shards = []
    for shard in range(size.shards):
        key = f"{HOOK}/train/{shard:05d}-{encoded.sha256[:12]}.parquet"
        open_store(uri).put(key, encoded.data)
        said = {"key": key, "size": len(encoded.data), "sha256": encoded.sha256, "rows": SHARD_ROWS}
        shards.append({**said, "row_groups": encoded.row_groups, "first_sequence": 0})
    split = {"rows": size.shards * SHARD_ROWS, "shards": shards}
    of_each = {"mean": [0.0] * size.d_in, "variance": float(size.d_in), "median_norm": size.d_in**0.5}
    statistics = {"train": of_each, "eval": of_each}
    entry = {"d_in": size.d_in, "dtype": "bfloat16", "splits": {"train": split, "eval": split}, "statistics": statistics}
    write_manifest(uri, {"hooks": {HOOK: entry}})
    return uri
