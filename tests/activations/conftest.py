import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.activations.schema import Dtype, RowFormat, from_float32
from tasks.activations.writer import Rows, encode_shard
from tasks.storage.artifacts import write_manifest
from tasks.storage.objects import open_store


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., str]:
    """Store shards of given sizes; number i has activation [i, -i, 1]. Numbers are in order, or in that of ``mixed_by``."""

    def store(shard_rows: list[int], row_group_rows: int = 7, dtype: Dtype = "float32", mixed_by: int | None = None) -> str:
        asked = repr((shard_rows, row_group_rows, dtype, mixed_by))
        uri = str(tmp_path / hashlib.sha256(asked.encode()).hexdigest()[:8])
        order = np.arange(sum(shard_rows))
        if mixed_by is not None:
            np.random.default_rng(mixed_by).shuffle(order)
        shards, first = [], 0
        row_format = RowFormat(3, dtype, "layer", "model", "main", "0" * 12)
        for n, rows in enumerate(shard_rows):
            numbers = order[first : first + rows]
            activation = np.stack([numbers, -numbers, np.ones(rows)], axis=1).astype(np.float32)
            encoded = encode_shard(
                Rows(
                    from_float32(activation, dtype),
                    numbers.astype(np.int32),
                    (numbers // 4).astype(np.int64),
                    (numbers % 4).astype(np.int32),
                ),
                row_format,
                row_group_rows,
            )
            key = f"layer/train/{n:05d}-{encoded.sha256[:12]}.parquet"
            open_store(uri).put(key, encoded.data)
            groups = {"rows": rows, "row_groups": encoded.row_groups, "first_sequence": 0}
            shards.append({"key": key, "size": len(encoded.data), "sha256": encoded.sha256, **groups})
            first += rows
        split = {"rows": first, "shards": shards}
        statistics = {name: {"mean": [0.0] * 3, "variance": 1.0, "median_norm": 1.0} for name in ("train", "eval")}
        hook = {"d_in": 3, "dtype": dtype, "splits": {"train": split, "eval": split}, "statistics": statistics}
        write_manifest(uri, {"hooks": {"layer": hook}})
        return uri

    return store
