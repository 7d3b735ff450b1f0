"""Activations of the user's own, brought into the same directory that a harvest writes."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.activations.schema import RowFormat, from_float32, to_float32
from tasks.activations.tensors import as_tensor
from tasks.activations.writer import Rows
from tasks.errors import InputError
from tasks.harvest.commit import HookRows, commit_shard, hook_entries, manifest
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.shards import Shard, committed, row_order
from tasks.harvest.sources import Float32s, Source, open_source
from tasks.harvest.statistics import norms, squared_errors, sum_rows
from tasks.hook_roles import OWN
from tasks.progress import Listener, Progress
from tasks.storage.artifacts import identity, read_manifest, to_json, write_manifest
from tasks.storage.objects import open_store


@dataclass(frozen=True, slots=True)
class Cut:
    """How rows are cut into files."""

    shard_rows: int
    """Rows of the source per shard."""
    row_group_rows: int
    """Rows per Parquet row group."""


def ingest(settings: ActivationsConfig, cut: Cut, out: str, listener: Listener, order: str | None = None) -> None:
    """Bring ``activations.source`` into ``out``: split, permuted within shards, summed and checked.

    ``order`` seeds the order of rows within shards, None being the hash in the address ``out``.

    Raises:
        InputError: the source cannot be read, holds numbers that are not finite, or is too small to be split.
    """
    if read_manifest(out) is not None:
        return
    began = time.monotonic()
    source = open_source(settings)
    shards = _ingest_chunks(settings, cut, source, out, listener, order)
    entry = hook_entries(out, shards, settings.dtype)[OWN]
    seconds = time.monotonic() - began
    open_store(out).put("run.json", to_json({"seconds": seconds, "tokens_per_second": source.n_rows / seconds}))
    _finish(settings, out, entry)


def _finish(settings: ActivationsConfig, out: str, entry: dict[str, Any]) -> None:
    eval_is_train = settings.eval_fraction == 0
    if eval_is_train:
        entry["splits"]["eval"] = entry["splits"]["train"]
        entry["statistics"]["eval"] = entry["statistics"]["train"]
        entry["masked"]["eval"] = entry["masked"]["train"]
    for split in ("train", "eval"):
        if not entry["splits"][split]["rows"]:
            raise InputError(
                f"activations.source is too small: no rows fall to {split} with activations.eval_fraction "
                f"{settings.eval_fraction:g}. Change it (0 scores the training rows)."
            )
    recipe = {"activations": settings.recipe(), "hash": identity(out)}
    write_manifest(out, manifest(recipe, {OWN: entry}, tokens=None, model=None, eval_is_train=eval_is_train))


def _ingest_chunks(
    settings: ActivationsConfig, cut: Cut, source: Source, out: str, listener: Listener, order: str | None
) -> list[Shard]:
    began, done = time.monotonic(), committed(out)
    shards, first = [], 0
    for index, (activation, labels) in enumerate(source.chunks(cut.shard_rows)):
        held_out = _held_out(first, len(activation), settings.eval_fraction)
        for split, chosen in (("train", ~held_out), ("eval", held_out)):
            shard = Shard(split, f"{index:05d}", first, len(activation))
            if not chosen.any():
                continue
            shards.append(shard)
            if shard.commit_key not in done:
                rows = _rows(settings, activation, labels, first, np.flatnonzero(chosen))
                places = row_order(order or identity(out), shard, len(rows))
                found = _hook_rows(settings, rows, activation[chosen], identity(out), places)
                commit_shard(open_store(out), shard, {OWN: found}, cut.row_group_rows)
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
    settings: ActivationsConfig, activation: Float32s, labels: list[str] | None, first: int, chosen: npt.NDArray[np.int64]
) -> Rows:
    stored = from_float32(activation[chosen], settings.dtype)
    finite = np.isfinite(to_float32(stored, settings.dtype)).all(axis=1)
    if not finite.all():
        row = first + int(chosen[np.argmin(finite)])
        raise InputError(
            f"Row {row} of activations.source {settings.source} is not finite in {settings.dtype}; "
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


def _hook_rows(
    config: ActivationsConfig, rows: Rows, exact: Float32s, recipe: str, order: npt.NDArray[np.int64]
) -> HookRows:
    row_format = RowFormat(exact.shape[1], config.dtype, OWN, "", "", recipe, labelled=rows.label is not None)
    stored = as_tensor(rows.activation)
    errors = squared_errors(exact, stored, config.dtype)
    sums = sum_rows(stored, config.dtype, norms(stored, config.dtype), errors)
    return HookRows(rows.take(order), row_format, sums, {})
