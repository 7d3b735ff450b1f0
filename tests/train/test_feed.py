"""Batches on their way to the device that trains."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.schema import DTYPES, Dtype, to_float32
from tasks.hook_roles import OWN
from tasks.progress import silent
from tasks.train import feed
from tests.composed import ingest
from tests.train.conftest import pipeline

CPU = "cpu"
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")])
N_STEPS = 30


def reader(folder: Path, dtype: Dtype = "float32") -> LaneReader:
    config = pipeline(folder)
    own = config.activations.model_copy(update={"dtype": dtype})
    out = f"{folder}/activations/{dtype}-{'0' * 12}"
    ingest(config.model_copy(update={"activations": own}), out, silent)
    return LaneReader(out, OWN, batch_rows=32, lanes=8, seed=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_device_gets_the_numbers_that_are_stored(tmp_path: Path, dtype: Dtype, device: str) -> None:
    rows = reader(tmp_path, dtype)
    expected = [to_float32(batch, dtype) for batch in rows.batches(2, N_STEPS)]
    for found in (
        feed.feed(rows, 2, N_STEPS, torch.device(device)),
        feed.staged(rows, 2, N_STEPS, torch.device(device), threads=3),
    ):
        batches = list(found)
        assert {batch.device.type for batch in batches} == {device}
        assert np.array_equal(np.stack([batch.float().cpu().numpy() for batch in batches]), np.stack(expected))
