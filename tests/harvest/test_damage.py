"""Damage that the reader must refuse by the object's name, at the latest when it comes to the damaged rows."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.reader import Split
from tasks.errors import ArtifactError
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tests.harvest.test_verify import Lake, data_keys, flip, rewrite

Damage = Callable[[ObjectStore, str], None]


def read_all(store: ObjectStore) -> list[list[object]]:
    """Everything that any stage reads of the train split."""
    split = Split(store.uri, "source", "train")
    read: list[list[object]] = [split.activations(unit).tolist() for unit in split.units()]
    for index in range(len(split.shards)):
        rows = split.shard(index)
        read += [rows.token_id.tolist(), [part.tolist() for part in split.places(index)]]
    return read


def flipped(store: ObjectStore, key: str) -> None:
    flip(store, key)


def truncated(store: ObjectStore, key: str) -> None:
    store.put(key, store.get(key)[:-100])


def cut_to_its_footer(store: ObjectStore, key: str) -> None:
    data = store.get(key)
    store.put(key, data[:4] + data[len(data) // 2 :])


def emptied(store: ObjectStore, key: str) -> None:
    store.put(key, b"")


def deleted(store: ObjectStore, key: str) -> None:
    store.delete(key)


def swapped(store: ObjectStore, key: str) -> None:
    other = next(k for k in data_keys(store) if k != key)
    one, two = store.get(key), store.get(other)
    store.put(key, two)
    store.put(other, one)


def foreign(store: ObjectStore, key: str) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"activation": np.arange(9)}), sink)
    store.put(key, sink.getvalue())


def foreign_with_our_metadata(store: ObjectStore, key: str) -> None:
    schema = pq.read_schema(pa.BufferReader(store.get(key)))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"activation": np.arange(9)}).replace_schema_metadata(schema.metadata), sink)
    store.put(key, sink.getvalue())


def of_another_recipe(store: ObjectStore, key: str) -> None:
    with_metadata(store, key, {b"recipe": b"e" * 12})


def with_metadata(store: ObjectStore, key: str, changed: dict[bytes, bytes]) -> None:
    table = pq.read_table(pa.BufferReader(store.get(key)))
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **changed}), sink, row_group_size=16)
    store.put(key, sink.getvalue())


def another_of_equal_rows(store: ObjectStore, key: str) -> None:
    """Only the shard's own name in its metadata tells the two apart."""
    with_metadata(store, key, {b"shard": b"train-00007"})


ALL = [
    flipped,
    truncated,
    cut_to_its_footer,
    emptied,
    deleted,
    swapped,
    foreign,
    foreign_with_our_metadata,
    of_another_recipe,
    another_of_equal_rows,
]


@pytest.mark.parametrize("damage", ALL)
def test_the_reader_names_the_damaged_shard_and_what_to_do(lake: Lake, damage: Damage) -> None:
    store = lake()
    key = data_keys(store)[0]
    damage(store, key)
    with pytest.raises(ArtifactError, match=rf"{re.escape(key)}.*(saemill verify|[Hh]arvest again)"):
        read_all(store)


@pytest.mark.s3
@pytest.mark.parametrize("damage", ALL)
def test_it_does_so_on_s3(lake: Lake, s3: str, tmp_path: Path, damage: Damage) -> None:
    here, there = lake(), open_store(f"{s3}/{tmp_path.name}/activations/x-{'d' * 12}")
    for info in here.list():
        there.put(info.key, here.get(info.key))
    key = data_keys(there)[0]
    damage(there, key)
    with pytest.raises(ArtifactError, match=re.escape(key)):
        read_all(there)


def test_training_batches_stop_at_a_damaged_shard(lake: Lake) -> None:
    store = lake()
    key = data_keys(store)[2]
    flip(store, key)
    reader = LaneReader(store.uri, "source", batch_rows=16, lanes=4, seed=0)
    with pytest.raises(ArtifactError, match=re.escape(key)):
        list(reader.batches(0, reader.split.rows // 16 + 1))


def test_whichever_byte_is_flipped_no_other_rows_are_read(lake: Lake) -> None:
    store = lake()
    key, undisturbed = data_keys(store)[0], read_all(store)
    data = store.get(key)
    refused = 0
    for at in range(0, len(data), 13):
        store.put(key, data)
        flip(store, key, at)
        try:
            assert read_all(store) == undisturbed, at
        except ArtifactError as error:
            refused += 1
            assert key in str(error)
    assert refused > len(data) / 13 / 2  # the rest are statistics, offsets that nobody uses, and the writer's name


def test_the_manifest_of_another_recipe_is_refused(lake: Lake) -> None:
    store = lake()
    rewrite(store, "manifest.json", lambda manifest: manifest["recipe"].update(hash="e" * 12))
    with pytest.raises(ArtifactError, match=rf"manifest.json is of recipe {'e' * 12}, the directory is that of {'d' * 12}"):
        Split(store.uri, "source", "train")
