from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from typing_extensions import override

from tasks.activations.schema import RowFormat, storage_dtype, stored_width
from tasks.activations.writer import Rows, encode_shard
from tasks.harvest.commit import HookRows, commit_shard
from tasks.harvest.shards import Shard
from tasks.harvest.statistics import norms, sum_rows, with_positions
from tasks.planner.needs import StageName, checkpoint_bytes, needs, rows_bytes, sae_bytes, shard_bytes, step_seconds
from tasks.planner.processors import CPU, H200
from tasks.planner.sizes import RowsSize, RunSize
from tasks.sae.architectures.names import NAMES
from tasks.sae.architectures.registry import layout
from tasks.sae.config import SAEConfig
from tasks.storage.local import LocalStore
from tasks.train.checkpoint import run_to_files
from tasks.train.config import TrainConfig
from tasks.train.loop import Run
from tasks.train.plan import plan
from tasks.train.train_state import initial_state
from tests.planner.demo import DEMO, STORED


def training(**changed: Any) -> RunSize:
    return replace(DEMO, training=replace(DEMO.training, **changed))


@pytest.mark.parametrize("stage", STORED)
def test_the_demo_stores_what_is_foretold_to_a_fiftieth(stage: StageName) -> None:
    assert needs(DEMO, CPU)[stage].bytes == pytest.approx(STORED[stage], rel=0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8"])
@pytest.mark.parametrize("rows", [5000, 8192, 20_001])
def test_shards_are_as_large_as_parquet_makes_them(dtype: Any, rows: int) -> None:
    width, group = 64, 4096
    numbers = np.arange(rows, dtype=np.int32)
    x = np.zeros((rows, stored_width(width, dtype)), storage_dtype(dtype))
    made = encode_shard(Rows(x, numbers, numbers.astype(np.int64), numbers), RowFormat(width, dtype, "", "", "", ""), group)
    size = RowsSize(train=rows, held_out=0, widths={"h": width}, dtype=dtype, shard_rows=2**15, row_group_rows=group)
    assert rows_bytes(size) == pytest.approx(len(made.data), rel=0.005)
    assert shard_bytes(size) == x.nbytes


def test_shards_and_row_groups_are_counted_by_split() -> None:
    rows = replace(DEMO.rows, train=70_000, held_out=100, shard_rows=32_768, row_group_rows=4_096)
    assert (rows.shards, rows.row_groups) == (3 + 1, 8 + 8 + 2 + 1)


@pytest.mark.parametrize("arch", NAMES)
def test_an_sae_has_the_numbers_of_its_layout_but_for_a_few_per_latent(arch: str) -> None:
    found = layout(SAEConfig(arch=arch, d_sae=1024, k=8), 256).size
    assert training(d_in=256, d_out=256, d_sae=1024).training.numbers == pytest.approx(found, rel=0.01)


def test_the_linear_path_of_a_transcoder_counts() -> None:
    found = layout(SAEConfig(arch="topk", d_sae=128, k=8, skip=True), 48, 32).size
    assert training(d_in=48, d_out=32, d_sae=128, skip=True).training.numbers == found


@pytest.mark.parametrize("averaged", [False, True])
def test_a_checkpoint_is_as_large_as_it_is_written(averaged: bool) -> None:
    settled = plan(SAEConfig(arch="topk", d_sae=256, k=4), TrainConfig(ema_decay=0.9 * averaged, precision="fp32"), 96)
    files = run_to_files(Run(initial_state(settled, torch.randn(64, 96))))
    size = training(d_in=96, d_out=96, d_sae=256, averaged=averaged).training
    assert checkpoint_bytes(size) == pytest.approx(len(files["state.safetensors"]), rel=0.005)
    assert sae_bytes(size) == 4 * settled.layout.size


class Counting(LocalStore):
    """A folder that counts what is put there."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        object.__setattr__(self, "puts", [])

    @override
    def put(self, key: str, data: bytes | memoryview) -> None:
        self.puts.append(key)  # type: ignore[attr-defined]
        super().put(key, data)

    @override
    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.puts.append(key)  # type: ignore[attr-defined]
        return super().put_if_absent(key, data)


def test_a_harvest_puts_an_object_per_shard_and_hook_and_a_record_per_shard(tmp_path: Any) -> None:
    n, width = 6, 4
    x = torch.randn(n, width)
    numbers = np.arange(n, dtype=np.int32)
    rows = Rows(x.numpy(), numbers, numbers.astype(np.int64), numbers)
    each = norms(x, "float32")
    sums = with_positions(sum_rows(x, "float32", each, np.zeros(n, np.float32), torch.arange(n)), each.reshape(1, n))
    store = Counting(str(tmp_path))
    hooks = {name: HookRows(rows, RowFormat(width, "float32", name, "", "", ""), sums, {}) for name in ("a", "b")}
    commit_shard(store, Shard("train", "00", 0, 1), hooks, 4)
    size = RowsSize(train=n, held_out=0, widths={"a": 4, "b": 4}, dtype="float32", shard_rows=n, row_group_rows=4)
    foretold = needs(replace(DEMO, rows=size), CPU)["harvest"].puts
    assert foretold == len(store.puts) + 2, "beside them run.json and the manifest"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("harvest", replace(DEMO, corpus=replace(DEMO.corpus, train_sequences=1940))),  # type: ignore[type-var]
        ("harvest", replace(DEMO, model=replace(DEMO.model, flop_to_hook=3e10))),  # type: ignore[type-var]
        ("training", training(tokens=2_000_000)),
        ("training", training(d_sae=9216)),
        ("scoring", replace(DEMO, scoring=replace(DEMO.scoring, splice_sequences=32))),
        ("scoring", replace(DEMO, scoring=replace(DEMO.scoring, rows=200_000))),
        ("report", replace(DEMO, scoring=replace(DEMO.scoring, pages=9216), training=replace(DEMO.training, d_sae=9216))),
    ],
)
def test_more_to_do_costs_more(stage: StageName, more: RunSize) -> None:
    assert needs(more, CPU)[stage].cost > 1.2 * needs(DEMO, CPU)[stage].cost


def test_own_activations_have_no_text_and_no_splice() -> None:
    own = replace(DEMO, corpus=None, model=None, scoring=replace(DEMO.scoring, splice_sequences=0))
    assert list(needs(own, CPU)) == ["harvest", "training", "scoring", "report"]


def test_a_card_is_faster_than_a_thread() -> None:
    assert 100 * step_seconds(replace(DEMO.training, workers=1), H200) < step_seconds(replace(DEMO.training, workers=1), CPU)


@pytest.mark.parametrize("most", [None, 200_000_000])
def test_rows_that_do_not_stay_are_stored_by_the_training(most: int | None) -> None:
    stays, passes = (
        needs(replace(DEMO, rows=replace(DEMO.rows, most_bytes=most, stay=stay)), CPU) for stay in (True, False)
    )
    passing = passes["training"].bytes - stays["training"].bytes
    harvested = passes["harvest"].stored["activations"]
    assert harvested == rows_bytes(replace(DEMO.rows, train=32_768)) < passing
    assert harvested + passing == stays["harvest"].stored["activations"] == (most or rows_bytes(DEMO.rows))
