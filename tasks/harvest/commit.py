"""Rows to storage, exactly once: data first, then a small create-only record per shard, then the manifest.

A kill at any line leaves at most an object that nothing names; the same command finds the committed shards and goes on.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tasks.artifacts import read_json, to_json
from tasks.errors import ArtifactError
from tasks.harvest.shards import Shard, row_order
from tasks.harvest.statistics import Sums, merge
from tasks.store.objects import ObjectStore, open_store
from tasks.store.schema import FORMAT_VERSION, RowFormat
from tasks.store.writer import Rows, encode_shard


@dataclass(frozen=True, slots=True)
class HookRows:
    """What one hook gives for one shard."""

    rows: Rows
    row_format: RowFormat
    sums: Sums
    masked: Mapping[str, int]


def commit_shard(
    store: ObjectStore, shard: Shard, hooks: Mapping[str, HookRows], row_group_rows: int, **observed: object
) -> None:
    """Store a shard's rows, then its commit record; a record that is there already wins and nothing is lost.

    ``observed`` (seconds, attempt, ...) is kept in the record, and never in the manifest.
    """
    objects = {hook: _put(store, shard, found, row_group_rows) for hook, found in hooks.items()}
    record = {
        "shard": asdict(shard),
        "objects": objects,
        "masked": {hook: dict(found.masked) for hook, found in hooks.items()},
        "sums": {hook: found.sums.to_json() for hook, found in hooks.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pyarrow": pa.__version__},
        **observed,
    }
    store.put_if_absent(shard.commit_key, to_json(record))


def committed(uri: str) -> set[str]:
    """Keys of the commit records that are there, from one listing."""
    return {info.key for info in open_store(uri).list("commits/")}


def read_commits(uri: str, shards: list[Shard]) -> list[dict[str, Any]]:
    """The commit records in the order of the shards.

    Raises:
        ArtifactError: a record is missing, damaged, or was made for another cut of the sequences.
    """
    records = []
    for shard in shards:
        record = read_json(uri, shard.commit_key)
        if record is None or record["shard"] != asdict(shard):
            raise ArtifactError(f"{uri}/{shard.commit_key} is missing or of another recipe. Delete {uri} and run again.")
        records.append(record)
    return records


def hook_entry(records: list[dict[str, Any]], hook: str, d_in: int, dtype: str) -> dict[str, Any]:
    """The manifest's entry for one hook, from the commit records of all shards."""
    splits, statistics, masked = {}, {}, {}
    for split in ("train", "eval"):
        own = sorted(
            (r for r in records if r["shard"]["split"] == split and hook in r["objects"]),
            key=lambda record: record["shard"]["index"],
        )
        shards = [record["objects"][hook] for record in own]
        splits[split] = {"rows": sum(shard["rows"] for shard in shards), "shards": shards}
        masked[split] = {
            rule: sum(record["masked"][hook][rule] for record in own) for rule in (own[0]["masked"][hook] if own else ())
        }
        if splits[split]["rows"]:
            statistics[split] = merge([Sums.from_json(record["sums"][hook]) for record in own]).statistics()
    return {"d_in": d_in, "dtype": dtype, "splits": splits, "masked": masked, "statistics": statistics}


def manifest(recipe: Mapping[str, Any], hooks: Mapping[str, Any], **more: object) -> dict[str, Any]:
    """The activations' manifest; it holds nothing that two undisturbed runs of the recipe would differ in."""
    return {"format_version": FORMAT_VERSION, "stage": "activations", "recipe": dict(recipe), "hooks": dict(hooks), **more}


def _put(store: ObjectStore, shard: Shard, found: HookRows, row_group_rows: int) -> dict[str, Any]:
    order = row_order(found.row_format.recipe, shard.split, shard.index, len(found.rows))
    row_format = replace(found.row_format, shard=shard.name)
    encoded = encode_shard(found.rows.take(np.asarray(order, np.int64)), row_format, row_group_rows)
    key = shard.data_key(row_format.hook, encoded.sha256)
    store.put(key, encoded.data)
    return {
        "key": key,
        "size": len(encoded.data),
        "sha256": encoded.sha256,
        "rows": encoded.rows,
        "row_groups": encoded.row_groups,
    }
