"""Activations directories as a harvest leaves them, from rows that a test makes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.activations.schema import RowFormat
from tasks.activations.writer import Rows, encode_shard
from tasks.storage.artifacts import write_manifest
from tasks.storage.objects import open_store

Shards = tuple[list[Rows], list[Rows]]


def store_hooks(uri: str, hooks: Mapping[str, Shards], row_group_rows: int = 7, **more: object) -> str:
    """Write float32 rows of some hooks: of each the shards of its training rows and of its held-out rows."""
    entries = {hook: _entry(uri, hook, train, held_out, row_group_rows) for hook, (train, held_out) in hooks.items()}
    write_manifest(uri, {"hooks": entries, **more})
    return uri


def _entry(uri: str, hook: str, train: list[Rows], held_out: list[Rows], row_group_rows: int) -> dict[str, Any]:
    splits, statistics = {}, {}
    for split, shards in (("train", train), ("eval", held_out)):
        x = np.concatenate([rows.activation for rows in shards]).astype(np.float64)
        n, x = len(x), x[np.isfinite(x).all(axis=1)]  # a test of rows that are not finite wants the others' statistics
        row_format = RowFormat(x.shape[1], "float32", hook, "model", "main", "0" * 12, shards[0].label is not None)
        entries = [_put(uri, f"{hook}/{split}/{n:05d}", rows, row_format, row_group_rows) for n, rows in enumerate(shards)]
        splits[split] = {"rows": n, "shards": entries}
        median = float(np.median(np.linalg.norm(x, axis=1)))
        variance = float(np.square(x - x.mean(axis=0)).sum(axis=1).mean())
        statistics[split] = {"mean": x.mean(axis=0).tolist(), "median_norm": median, "variance": variance}
    return {"d_in": x.shape[1], "dtype": "float32", "splits": splits, "statistics": statistics}


def _put(uri: str, key: str, rows: Rows, row_format: RowFormat, row_group_rows: int) -> dict[str, object]:
    encoded = encode_shard(rows, row_format, row_group_rows)
    name = f"{key}-{encoded.sha256[:12]}.parquet"
    open_store(uri).put(name, encoded.data)
    sizes = {"size": len(encoded.data), "rows": encoded.rows, "row_groups": encoded.row_groups, "first_sequence": 0}
    return {"key": name, "sha256": encoded.sha256, **sizes}
