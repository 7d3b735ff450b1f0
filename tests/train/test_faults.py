"""A loss that is not finite: the run stops, and its error says which step and which stored row."""

from pathlib import Path

import numpy as np
import pytest

from flows.config import PipelineConfig, parse_config
from tasks.activations.reader import Split
from tasks.activations.writer import Rows
from tasks.errors import InputError
from tasks.sae.mesh import OneProcess
from tasks.train.loop import Run
from tasks.train.nonfinite import NotFiniteError
from tasks.train.worker import Worker
from tests.composed import run_settings
from tests.stored import store_hooks


def stored(tmp_path: Path, bad: float | None = None, **train: object) -> tuple[PipelineConfig, str]:
    """Three shards of 64 rows, of which row 37 of the second may have a bad number in it."""
    x = np.random.default_rng(0).normal(size=(3, 64, 6)).astype(np.float32)
    x[1, 37, 2] = x[1, 37, 2] if bad is None else bad
    shards = [Rows(part, np.zeros(64, np.int32), np.arange(64), np.zeros(64, np.int32)) for part in x]
    uri = store_hooks(str(tmp_path / "activations"), {"source": (shards, shards[:1])}, row_group_rows=16)
    settings = {"tokens": 192, "batch_tokens": 16, "lanes": 4, "workers": 1, "precision": "fp32", "lr": 0.01}
    config = {"storage": str(tmp_path), "activations": {"source": "x.npy"}, "sae": {"d_sae": 24, "k": 3}}
    return parse_config({**config, "train": {**settings, **train}}), uri


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named_with_its_step_and_shard(tmp_path: Path, value: float) -> None:
    config, uri = stored(tmp_path, value)
    worker, checkpoints = Worker(run_settings(config), uri, str(tmp_path / "out"), OneProcess()), list[int]()
    key = Split(uri, "source", "train").shards[1]["key"]
    with pytest.raises(InputError, match=rf"loss is nan at step \d+ of 12 .*row 37 of {key} is not finite") as caught:
        worker.train(on_checkpoint=lambda run: checkpoints.append(run.state.step))
    step = int(str(caught.value).split("at step ")[1].split()[0])
    assert all(checkpoint < step for checkpoint in checkpoints)
    (rows,) = worker._reader.batches(step - 1, 1)
    assert not np.isfinite(rows.view(np.float32)).all()


def test_where_all_rows_are_finite_the_largest_is_named_and_the_rate_blamed(tmp_path: Path) -> None:
    config, uri = stored(tmp_path)
    steep = config.train.model_copy(update={"lr": 1e30})  # settings would refuse it
    config = config.model_copy(update={"train": steep})
    with pytest.raises(InputError, match=r"All 16 rows .* row \d+ of source/train/\S+, has \d+\.\d times .*Lower train\.lr"):
        Worker(run_settings(config), uri, str(tmp_path / "out"), OneProcess()).train()


def test_a_gradient_that_overflows_where_the_loss_does_not_is_refused_too(tmp_path: Path) -> None:
    from tasks.train.loop import train
    from tests.train.test_loop import SCALING, batches, start, tiny_plan

    p = tiny_plan("l1")
    run: Run = start(p)
    run.state.parameters.W_dec.fill_(1e15)
    run.state.parameters.encoder.mul_(1e-15)
    data = batches(p)
    data[0] *= 1e12
    with pytest.raises(NotFiniteError, match="at step 1 of"):
        train(run, data, p, SCALING)


def test_every_row_s_place_is_where_it_was_read_from(tmp_path: Path) -> None:
    config, uri = stored(tmp_path)
    reader = Worker(run_settings(config), uri, str(tmp_path / "out"), OneProcess())._reader
    split = Split(uri, "source", "train")
    x = {shard["key"]: split.shard(number).activation for number, shard in enumerate(split.shards)}
    (rows,) = reader.batches(7, 1)
    for number, row in enumerate(rows):
        _, place, _, key = reader.whence(7, number).split()
        np.testing.assert_array_equal(row, x[key][int(place)])
