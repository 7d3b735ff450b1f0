"""Rows to storage, exactly once: data first, then a small create-only record per shard, then the manifest.

A kill at any line leaves at most an object that nothing names; the same command finds the committed shards and goes on.
"""

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import torch

from tasks.activations.schema import FORMAT_VERSION, RowFormat
from tasks.activations.writer import Rows, encode_shard
from tasks.errors import ArtifactError
from tasks.harvest.shards import Shard
from tasks.harvest.statistics import Sums
from tasks.storage.artifacts import read_json, to_json
from tasks.storage.base import ObjectStore

# Commit records are small, and reading them is mostly waiting.
_READERS = 16
_READ_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class HookRows:
    """What one hook gives for one shard."""

    rows: Rows
    """In the order in which they are stored."""
    row_format: RowFormat
    sums: Sums
    masked: Mapping[str, int]


def commit_shard(
    store: ObjectStore,
    shard: Shard,
    hooks: Mapping[str, HookRows],
    row_group_rows: int,
    **observed: object,
) -> None:
    """Store a shard's rows, then its commit record; a record that is there already wins and nothing is lost.

    ``observed`` (seconds, attempt, ...) is kept in the record, and never in the manifest.
    """
    objects = {hook: _put(store, shard, found, row_group_rows) for hook, found in hooks.items()}
    record = {
        "shard": shard.identity(),
        "objects": objects,
        "masked": {hook: dict(found.masked) for hook, found in hooks.items()},
        "sums": {hook: found.sums.to_json() for hook, found in hooks.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pyarrow": pa.__version__},
        **observed,
    }
    if not store.put_if_absent(shard.commit_key, to_json(record)):
        _give_way(store, shard, objects)


def hook_entries(uri: str, shards: Sequence[Shard], dtype: str) -> dict[str, dict[str, Any]]:
    """The manifest's entry for each hook, from the commit records of all shards, added up in the order of the shards.

    Records are read a few hundred at a time and only what the manifest says of a shard is kept of them: of 100,000 of
    them, sums of 576 numbers alone would be half a GiB.

    Raises:
        ArtifactError: a record is missing, damaged, or of another shard.
    """
    tallies: dict[str, dict[str, _Tally]] = {}
    for shard, record in _records(uri, shards):
        for hook, found in record["objects"].items():
            by_split = tallies.setdefault(hook, {"train": _Tally(), "eval": _Tally()})
            by_split[shard.split].add(shard, found, record["masked"][hook], Sums.from_json(record["sums"][hook]))
    return {hook: _entry(by_split, dtype) for hook, by_split in tallies.items()}


def manifest(recipe: Mapping[str, Any], hooks: Mapping[str, Any], **more: object) -> dict[str, Any]:
    """The activations' manifest; it holds nothing that two undisturbed runs of the recipe would differ in."""
    return {"format_version": FORMAT_VERSION, "stage": "activations", "recipe": dict(recipe), "hooks": dict(hooks), **more}


@dataclass(slots=True)
class _Tally:
    """What the records of one hook and split add up to so far."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    masked: Counter[str] = field(default_factory=Counter)
    sums: Sums | None = None

    def add(self, shard: Shard, found: Mapping[str, Any], masked: Mapping[str, int], sums: Sums) -> None:
        self.shards.append({**found, "first_sequence": shard.first_sequence})
        self.masked.update(masked)
        self.sums = sums if self.sums is None else self.sums + sums


def _entry(by_split: Mapping[str, _Tally], dtype: str) -> dict[str, Any]:
    there = {split: tally.sums for split, tally in by_split.items() if tally.sums is not None}
    return {
        "d_in": len(next(iter(there.values())).total),
        "dtype": dtype,
        "splits": {
            split: {"rows": sum(shard["rows"] for shard in tally.shards), "shards": tally.shards}
            for split, tally in by_split.items()
        },
        "masked": {split: dict(tally.masked) for split, tally in by_split.items()},
        "statistics": {split: sums.statistics() for split, sums in there.items() if sums.count},
    }


def _records(uri: str, shards: Sequence[Shard]) -> Iterator[tuple[Shard, dict[str, Any]]]:
    def read(shard: Shard) -> dict[str, Any]:
        record = read_json(uri, shard.commit_key)
        if record is None or record["shard"] != shard.identity():
            raise ArtifactError(f"{uri}/{shard.commit_key} is missing or of another shard. Delete it and run again.")
        return record

    with ThreadPoolExecutor(_READERS) as pool:
        for first in range(0, len(shards), _READ_AT_ONCE):
            some = shards[first : first + _READ_AT_ONCE]
            yield from zip(some, pool.map(read, some), strict=True)


def _put(store: ObjectStore, shard: Shard, found: HookRows, row_group_rows: int) -> dict[str, Any]:
    row_format = replace(found.row_format, shard=shard.name)
    encoded = encode_shard(found.rows, row_format, row_group_rows)
    key = shard.data_key(row_format.hook, encoded.sha256)
    store.put(key, encoded.data)
    return {
        "key": key,
        "size": len(encoded.data),
        "sha256": encoded.sha256,
        "rows": encoded.rows,
        "row_groups": encoded.row_groups,
    }


def _give_way(store: ObjectStore, shard: Shard, objects: Mapping[str, Mapping[str, Any]]) -> None:
    """Delete what a lost race left: rows that the winner's record does not name (its machine rounds otherwise)."""
    winner = read_json(store.uri, shard.commit_key) or {"objects": objects}
    kept = {found["key"] for found in winner["objects"].values()}
    for found in objects.values():
        if found["key"] not in kept:
            store.delete(found["key"])
