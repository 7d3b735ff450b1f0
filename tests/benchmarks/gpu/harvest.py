"""The harvest beside the bare forward pass, on one card: the harvester's own code, which stores in memory.

Models have the sizes of real ones, and random weights. Without a card, or with ``--quick``, a tiny one shows that it works.
"""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tasks.harvest.capture import Subject, forward, rows
from tasks.harvest.commit import HookRows
from tasks.harvest.config import HarvestConfig
from tasks.harvest.pool import actor
from tasks.harvest.pool.actor import Harvester, HarvestJob
from tasks.harvest.shards import Shard, planned_shards
from tasks.lm.config import ModelConfig
from tasks.lm.engines.transformers_engine import TransformersEngine
from tasks.lm.hooks import capture
from tasks.storage.artifacts import write_manifest
from tests.benchmarks import rounds
from tests.benchmarks.rounds import interleaved, per_second

SHARD_TOKENS = 32_768
ROUNDS = 3
MEMORY = Path("/dev/shm")
RECIPE = "a" * 12


@dataclass(frozen=True)
class Shape:
    """A model's sizes, as far as its hook, and how much text it reads."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    shards: int

    @property
    def hook(self) -> str:
        return f"model.layers.{self.layers - 1}"


SHAPES = (
    Shape("SmolLM2-135M to layer 8", 9, 576, 1536, 9, 3, 49_152, 256, 120),
    Shape("1B to layer 8", 9, 2048, 8192, 32, 8, 128_256, 1024, 40),
    Shape("8B to layer 15", 16, 4096, 14_336, 32, 8, 128_256, 1024, 40),
)
TINY = Shape("tiny", 2, 64, 128, 4, 2, 500, 256, 2)


def run(options: Any) -> dict[str, Any]:
    """Speeds, what the search found, and whether rows are those of a CPU, by the model's name."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small = device.type == "cpu" or getattr(options, "quick", False)
    return {shape.name: measured(shape, device) for shape in ((TINY,) if small else SHAPES)}


def measured(shape: Shape, device: torch.device) -> dict[str, Any]:
    """One model's figures; the first harvest, in which the sequences of a pass are searched for, is told apart."""
    with _folder() as folder:
        engine = TransformersEngine(_model(shape, device))
        subject = Subject(engine, shape.name, "", special_token_ids=[])
        ids, job = _tokens(folder, shape), _job(folder, shape, device)
        with mock.patch.object(actor, "_subject", return_value=subject):
            harvester = Harvester(job)
        shards = planned_shards(job.tokens, SHARD_TOKENS)
        searching = _harvest(harvester, job, shards)
        batch = subject.batch.sequences(None)
        contenders = {
            "bare forward pass": lambda: per_second(ids.size, lambda: _bare(engine.model, shape, ids, batch)),
            "harvest": lambda: _harvest(harvester, job, shards),
        }
        found = interleaved(contenders, ROUNDS)
        return {
            "tokens_per_second": rounds.rows(found, "tokens/s", "bare forward pass"),
            "while_searching": searching,
            "batch_sequences": batch,
            "attention": engine.attention,
            "gb_per_second": max(found["harvest"]) * 2 * shape.hidden / 1e9,
            **_held_against_a_cpu(subject, job.settings, ids[: SHARD_TOKENS // shape.context]),
        }


def _harvest(harvester: Harvester, job: HarvestJob, shards: list[Shard]) -> float:
    """Tokens per second of all shards, from the first one's tokens to the last one's commit."""
    tokens = sum(shard.n_sequences for shard in shards) * job.context_length
    try:
        with ThreadPoolExecutor(job.in_flight) as threads:
            return per_second(tokens, lambda: list(threads.map(lambda shard: harvester.harvest(shard, 1), shards)))
    finally:
        shutil.rmtree(job.out)


def _bare(model: Any, shape: Shape, ids: npt.NDArray[np.int32], batch: int) -> None:
    """The model as far as the hook, over the same tokens, which are there already; nothing is kept."""
    there = torch.from_numpy(ids.astype(np.int64)).to(model.device)
    for first in range(0, len(ids), batch):
        capture(model, [shape.hook], there[first : first + batch])
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def _held_against_a_cpu(subject: Subject, config: HarvestConfig, ids: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Of one shard's activations, whether the device makes the rows that a CPU makes of them, and how far sums are apart."""
    captured = forward(subject, config, ids, lambda _: None)
    on_cpu = {
        hook: replace(there, stored=there.stored.cpu(), squared_error=there.squared_error.cpu(), through=None)
        for hook, there in captured.items()
    }
    (ours,), (theirs,) = (rows(subject, config, RECIPE, ids, found).values() for found in (captured, on_cpu))
    return {"rows_equal": _same_rows(ours, theirs), "sums_differ_by": _difference(ours, theirs)}


def _same_rows(ours: HookRows, theirs: HookRows) -> bool:
    names = ("activation", "token_id", "sequence", "position")
    return all(np.array_equal(getattr(ours.rows, name), getattr(theirs.rows, name)) for name in names)


def _difference(ours: HookRows, theirs: HookRows) -> float:
    """The largest difference of two sums, relative to the largest number among them."""
    pairs = [
        (np.atleast_1d(getattr(ours.sums, name)), np.atleast_1d(getattr(theirs.sums, name)))
        for name in ("total", "total_square_norm", "median_norm", "position_norm")
    ]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _model(shape: Shape, device: torch.device) -> Any:
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context,
    )
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    return model.eval().requires_grad_(False)


def _tokens(folder: str, shape: Shape) -> npt.NDArray[np.int32]:
    """Write a tokens directory of random tokens, an eighth of them held out; all of them, [n_sequences, context]."""
    n = shape.shards * SHARD_TOKENS // shape.context
    ids = np.random.default_rng(0).integers(0, shape.vocabulary, (n, shape.context), dtype=np.int32)
    columns: dict[str, Any] = {
        "hash": pa.array([number.to_bytes(16, "little") for number in range(n)], pa.binary(16)),
        "token_ids": pa.array(list(ids), pa.list_(pa.int32())),
    }
    uri = f"{folder}/tokens/bench-{RECIPE}"
    Path(uri).mkdir(parents=True)
    pq.write_table(pa.table(columns), f"{uri}/sequences.parquet", row_group_size=SHARD_TOKENS // shape.context)
    cut = {"n_sequences": {"train": n - n // 8, "eval": n // 8}, "segments": {"train": [n - n // 8], "eval": [n // 8]}}
    write_manifest(uri, {**cut, "context_length": shape.context, "special_token_ids": []})
    return ids


def _job(folder: str, shape: Shape, device: torch.device) -> HarvestJob:
    return HarvestJob(
        settings=HarvestConfig(hooks=[shape.hook], dtype="bfloat16", shard_tokens=SHARD_TOKENS),
        model=ModelConfig(name="random"),
        tokens=f"{folder}/tokens/bench-{RECIPE}",
        out=f"{folder}/shards/bench-{RECIPE}",
        context_length=shape.context,
        special_token_ids=[],
        gpus=float(device.type == "cuda"),
        shard_bytes=SHARD_TOKENS * 2 * shape.hidden,
    )


@contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield folder
