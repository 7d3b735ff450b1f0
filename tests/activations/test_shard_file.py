import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tasks.activations.reader import Split
from tasks.activations.shard_file import ShardFile
from tasks.errors import ArtifactError
from tasks.storage.objects import open_store

Store = Callable[..., str]


def only_shard(uri: str) -> Path:
    return next(Path(uri).rglob("*.parquet"))


def with_a_flipped_bit(path: Path) -> bytes:
    """In the first rows of the first page."""
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    return bytes(data)


def test_one_file_is_compared_with_its_crcs_once_per_process(stored: Store) -> None:
    uri = stored([20])
    path, split = only_shard(uri), Split(uri, "layer", "train")
    before = split.activations(split.units()[0]).copy()
    found, damaged = path.stat(), with_a_flipped_bit(path)
    with open(path, "r+b") as file:
        file.write(damaged)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))  # so that it looks like the file that was found whole
    assert (split.activations(split.units()[0]) != before).any()


def test_a_file_that_was_written_again_is_compared_again(stored: Store) -> None:
    uri = stored([20])
    path, split = only_shard(uri), Split(uri, "layer", "train")
    split.activations(split.units()[0])
    open_store(str(path.parent)).put(path.name, with_a_flipped_bit(path))
    with pytest.raises(ArtifactError, match=path.name):
        split.activations(split.units()[0])


def test_row_groups_are_compared_each_on_its_own(stored: Store) -> None:
    uri = stored([20])
    path, split = only_shard(uri), Split(uri, "layer", "train")
    split.activations(split.units()[1])
    found, damaged = path.stat(), with_a_flipped_bit(path)
    with open(path, "r+b") as file:
        file.write(damaged)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    split.activations(split.units()[1])
    with pytest.raises(ArtifactError, match=path.name):
        split.activations(split.units()[0])


def test_threads_may_read_one_open_shard_at_once(stored: Store) -> None:
    path = only_shard(stored([4000], row_group_rows=10))
    shard = ShardFile(open_store(str(path.parent)), path.name, path.stat().st_size)
    groups = np.random.default_rng(0).integers(0, 400, 2000).tolist()

    def first_token(group: int) -> int:
        return int(shard.read_row_group(group, columns=["activation", "token_id"])["token_id"][0].as_py())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(first_token, groups)) == [10 * group for group in groups]


def test_an_open_shard_holds_no_file_descriptor(stored: Store) -> None:
    path = only_shard(stored([20]))
    before = len(os.listdir("/proc/self/fd"))
    shards = [ShardFile(open_store(str(path.parent)), path.name, path.stat().st_size) for _ in range(50)]
    assert [shard.footer.num_rows for shard in shards] == [20] * 50
    assert len(os.listdir("/proc/self/fd")) < before + 10
