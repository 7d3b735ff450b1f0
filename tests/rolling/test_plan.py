"""How a harvest is cut into windows, and that no window takes more bytes than is said."""

from pathlib import Path

import numpy as np
import pytest

from tasks.activations.schema import RowFormat
from tasks.activations.writer import Rows
from tasks.errors import InputError
from tasks.harvest.commit import HookRows, commit_shard
from tasks.harvest.config import HarvestConfig
from tasks.harvest.kept import SAMPLE_TOKENS, kept_shards, sampled
from tasks.harvest.rolling.plan import most_bytes, plan_windows, require_kept_fit, windows_at_once
from tasks.harvest.shards import Shard
from tasks.harvest.statistics import Sums
from tasks.storage.objects import open_store


def shards(n: int, n_sequences: int = 4, split: str = "train") -> list[Shard]:
    return [Shard(split, f"{i:016x}", i * n_sequences, n_sequences) for i in range(n)]


def test_windows_are_runs_of_training_shards_that_hold_so_many_tokens_at_most() -> None:
    planned = [*shards(2, split="eval"), *shards(7)]
    cut = plan_windows(planned, window_tokens=100, context_length=8)  # 32 tokens a shard
    assert [[shard.first_sequence // 4 for shard in window] for window in cut] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [len(window) for window in plan_windows(planned, window_tokens=1, context_length=8)] == [1] * 7
    assert len(plan_windows(planned, window_tokens=10**9, context_length=8)) == 1


@pytest.mark.parametrize(
    ("d_in", "dtype", "tokens", "groups"),
    [(16, "float32", 512, 64), (576, "bfloat16", 32_768, 4_096), (4096, "bfloat16", 4_096, 512), (64, "int8", 2_048, 2_048)],
)
def test_no_shard_takes_more_bytes_than_is_said_nor_much_less(
    tmp_path: Path, d_in: int, dtype: str, tokens: int, groups: int
) -> None:
    settings = HarvestConfig(dtype=dtype, row_group_rows=groups)
    context, store = 64, open_store(str(tmp_path))
    width = d_in + 4 if dtype == "int8" else d_in
    stored = {"float32": "<f4", "bfloat16": "<u2", "int8": "u1"}[dtype]
    activation = np.ones((tokens, width), stored)
    places = np.arange(tokens)
    rows = Rows(activation, places.astype(np.int32), places.astype(np.int64), places.astype(np.int32))
    sums = Sums(tokens, np.full(d_in, 1 / 3), 1.0, 1.0, 1.0, np.full(context, 1 / 3), np.full(context, 1 / 3))
    found = HookRows(rows, RowFormat(d_in, settings.dtype, "layer", "model", "main", "0" * 12), sums, {"norm_outlier": 0})
    (shard,) = shards(1, tokens // context)
    commit_shard(store, shard, {"layer": found}, groups)
    there = sum(info.size for info in store.list())
    said = most_bytes([shard], [d_in], settings, context)
    assert there <= said <= 1.01 * there + 8_192


def test_so_many_windows_are_stored_at_once_as_fit() -> None:
    windows = plan_windows(shards(8), 64, 8)
    one = most_bytes(windows[0], [16], HarvestConfig(), 8)
    held = most_bytes(shards(1, split="eval"), [16], HarvestConfig(), 8)

    def fitting(n_bytes: int, passes: int = 1) -> int:
        settings = HarvestConfig(keep="window", window_bytes=n_bytes)
        return windows_at_once(windows, shards(1, split="eval"), [16], settings, 8, actors=2, passes=passes)

    with pytest.raises(InputError, match=r"but a window takes up to .*Lower train\.window_tokens") as refused:
        fitting(held + 2 * one)
    for_two = int(str(refused.value).rpartition(" ")[2].rstrip(".").replace(",", ""))
    assert [fitting(for_two - 1), fitting(for_two), fitting(for_two + 10 * one)] == [1, 2, 10]
    assert fitting(for_two, passes=2) == 1, "what is told of a window that is gone takes room too"
    with pytest.raises(InputError, match=r"held-out rows.*which stay.*Lower text\.eval_fraction"):
        require_kept_fit(shards(1, split="eval"), [16], HarvestConfig(keep="window", window_bytes=held - 1), 8)


def test_held_out_shards_and_an_even_sample_of_the_others_stay() -> None:
    planned = [*shards(3, split="eval"), *shards(400)]
    settings = HarvestConfig(keep="window", window_bytes=1, shard_tokens=SAMPLE_TOKENS // 3)
    stay = kept_shards(planned, settings)
    assert stay[:3] == planned[:3]
    assert [shard.first_sequence // 4 for shard in stay[3:]] == [50, 150, 250, 350]
    assert sampled(planned, stay) == {"sampled": {"train": {"kept": 4, "of": 400}}}
    whole = kept_shards(planned, HarvestConfig())
    assert whole == planned
    assert sampled(planned, whole) == {}
