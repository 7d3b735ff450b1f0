from collections.abc import Callable

import numpy as np
import pytest

from tasks.activations.reader import Split, read_rows
from tasks.activations.schema import to_float32
from tasks.errors import ArtifactError
from tasks.storage.objects import open_store

Store = Callable[..., str]


def numbers(batch: np.ndarray) -> list[int]:
    return batch[:, 0].astype(int).tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rows_come_back_in_order_and_exactly(stored: Store, dtype: str) -> None:
    rows = to_float32(read_rows(stored([20, 11], dtype=dtype), "layer", "train", max_rows=25), dtype)
    assert rows[:, 0].tolist() == list(range(25))
    assert rows[:, 1].tolist() == [-n for n in range(25)]


def test_a_shard_comes_back_with_its_places(stored: Store) -> None:
    rows = Split(stored([20, 11]), "layer", "train").shard(1)
    assert rows.token_id.tolist() == list(range(20, 31))
    assert rows.sequence[:3].tolist() == [5, 5, 5]


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (3, 5), (6, 15), (7, 14), (13, 20), (19, 20)])
def test_a_part_of_a_shard_is_the_same_rows_of_the_whole(stored: Store, start: int, stop: int) -> None:
    rows = Split(stored([3, 20]), "layer", "train").shard(1, start, stop)
    assert rows.token_id.tolist() == list(range(3 + start, 3 + stop))
    assert numbers(rows.activation) == list(range(3 + start, 3 + stop))


def test_places_are_read_without_activations(stored: Store) -> None:
    sequence, position = Split(stored([20, 11]), "layer", "train").places(1)
    assert sequence[:5].tolist() == [5, 5, 5, 5, 6]
    assert position[:5].tolist() == [0, 1, 2, 3, 0]


def test_a_missing_shard_is_named(stored: Store) -> None:
    uri = stored([20, 11])
    key = next(o.key for o in open_store(uri).list("layer/train/00001"))
    open_store(uri).delete(key)
    with pytest.raises(ArtifactError, match=key):
        read_rows(uri, "layer", "train")


def test_a_truncated_shard_is_named(stored: Store) -> None:
    uri = stored([20])
    key = next(o.key for o in open_store(uri).list("layer/"))
    open_store(uri).put(key, open_store(uri).get(key, 0, 300))
    with pytest.raises(ArtifactError, match=key):
        read_rows(uri, "layer", "train")
