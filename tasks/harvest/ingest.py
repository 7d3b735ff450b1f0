"""Activations of the user's own, brought into the same directory that a harvest writes."""

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.artifacts import identity, read_manifest, to_json, write_manifest
from tasks.config import PipelineConfig
from tasks.errors import InputError
from tasks.harvest.commit import HookRows, commit_shard, hook_entries, manifest
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.shards import Shard, committed
from tasks.harvest.sources import Float32s, Source, open_source
from tasks.harvest.statistics import norms, squared_errors, sum_rows
from tasks.progress import Listener, Progress
from tasks.store.objects import open_store
from tasks.store.schema import RowFormat, from_float32, to_float32
from tasks.store.writer import Rows

HOOK = "source"


def ingest(config: PipelineConfig, out: str, listener: Listener) -> None:
    """Bring ``activations.source`` into ``out``: split, permuted within shards, summed and checked.

    Raises:
        InputError: the source cannot be read, holds numbers that are not finite, or is too small to be split.
    """
    if read_manifest(out) is not None:
        return
    began = time.monotonic()
    source = open_source(config.activations)
    shards = _ingest_chunks(config, source, out, listener, began)
    entry = hook_entries(out, shards, config.activations.dtype)[HOOK]
    seconds = time.monotonic() - began
    open_store(out).put("run.json", to_json({"seconds": seconds, "tokens_per_second": source.n_rows / seconds}))
    _finish(config, out, entry)


def _finish(config: PipelineConfig, out: str, entry: dict[str, Any]) -> None:
    eval_is_train = config.activations.eval_fraction == 0
    if eval_is_train:
        entry["splits"]["eval"] = entry["splits"]["train"]
        entry["statistics"]["eval"] = entry["statistics"]["train"]
        entry["masked"]["eval"] = entry["masked"]["train"]
    for split in ("train", "eval"):
        if not entry["splits"][split]["rows"]:
            raise InputError(
                f"activations.source is too small: no rows fall to {split} with activations.eval_fraction "
                f"{config.activations.eval_fraction:g}. Change it (0 scores the training rows)."
            )
    recipe = {"activations": config.activations.recipe(), "hash": identity(out)}
    write_manifest(out, manifest(recipe, {HOOK: entry}, tokens=None, model=None, eval_is_train=eval_is_train))


def _ingest_chunks(config: PipelineConfig, source: Source, out: str, listener: Listener, began: float) -> list[Shard]:
    done = committed(out)
    shards, first = [], 0
    for index, (activation, labels) in enumerate(source.chunks(config.harvest.shard_tokens)):
        held_out = _held_out(first, len(activation), config.activations.eval_fraction)
        for split, chosen in (("train", ~held_out), ("eval", held_out)):
            shard = Shard(split, f"{index:05d}", first, len(activation))
            if not chosen.any():
                continue
            shards.append(shard)
            if shard.commit_key not in done:
                rows = _rows(config, activation, labels, first, np.flatnonzero(chosen))
                found = _hook_rows(config.activations, rows, activation[chosen], identity(out))
                commit_shard(open_store(out), shard, {HOOK: found}, config.harvest.row_group_rows)
        first += len(activation)
        listener(Progress("ingest", first, source.n_rows, "rows", first / (time.monotonic() - began)))
    return shards


def _held_out(first: int, rows: int, fraction: float) -> npt.NDArray[np.bool_]:
    """Which rows are held out, by a hash of the row number (the finaliser of splitmix64)."""
    x = np.arange(first, first + rows, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) / 2.0**64 < fraction


def _rows(
    config: PipelineConfig, activation: Float32s, labels: list[str] | None, first: int, chosen: npt.NDArray[np.int64]
) -> Rows:
    stored = from_float32(activation[chosen], config.activations.dtype)
    finite = np.isfinite(to_float32(stored, config.activations.dtype)).all(axis=1)
    if not finite.all():
        row = first + int(chosen[np.argmin(finite)])
        raise InputError(
            f"Row {row} of activations.source {config.activations.source} is not finite in {config.activations.dtype}; "
            "mend it, or set activations.dtype to float32 if it is too large for float16."
        )
    n = len(chosen)
    return Rows(
        stored,
        np.full(n, -1, np.int32),
        chosen.astype(np.int64),
        np.zeros(n, np.int32),
        None if labels is None else [labels[i] for i in chosen],
    )


def _hook_rows(config: ActivationsConfig, rows: Rows, exact: Float32s, recipe: str) -> HookRows:
    row_format = RowFormat(exact.shape[1], config.dtype, HOOK, "", "", recipe, labelled=rows.label is not None)
    stored, errors = rows.activation, squared_errors(exact, rows.activation, config.dtype)
    sums = sum_rows(stored, config.dtype, norms(stored, config.dtype), errors)
    return HookRows(rows, row_format, sums, {})
