"""A process of a group is killed while it harvests: the group is started again, and no row is stored twice."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.config import PipelineConfig
from tasks.activations.reader import Split
from tasks.lm.hooks import capture
from tasks.lm.load import load_model
from tasks.progress import silent
from tasks.storage.objects import open_store
from tasks.text.stored import read_sequences
from tests.composed import harvest
from tests.harvest.conftest import places, tiny_config
from tests.kills.processes import FOLLOWER, HARVESTER, titled
from tests.patience import until
from tests.turns import kills_a_harvest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SHARDS = 12


def in_two(model: str, root: str) -> PipelineConfig:
    config = tiny_config(model, root)
    return config.model_copy(update={"harvest": config.harvest.model_copy(update={"gpus_per_replica": 2})})


@pytest.mark.parametrize("title", [HARVESTER, FOLLOWER])
@kills_a_harvest
def test_a_group_that_loses_a_process_is_started_again_and_no_row_is_there_twice(
    title: str, even_llama: str, tokens_directory: Callable[[str], str], tmp_path: Path
) -> None:
    config = in_two(even_llama, str(tmp_path))
    tokens, (shards, out) = tokens_directory(str(tmp_path)), places(str(tmp_path))
    store, before = open_store(shards), {process.pid for process in titled(title)}

    def kill() -> int:
        until(lambda: {process.pid for process in titled(title)} - before, title)
        [pid] = {process.pid for process in titled(title)} - before
        until(lambda: list(store.list("commits/")), "a commit")
        os.kill(pid, signal.SIGKILL)
        return len(list(store.list("commits/")))

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        harvest(config, tokens, shards, out, silent)
    assert killed.result() < SHARDS, "killed too late to show anything"
    ids = torch.from_numpy(read_sequences(tokens, 0, 46).astype(np.int64))
    expected = capture(load_model(config.model), config.harvest.hooks, ids)
    kept = (ids != 0).numpy() & (np.arange(8) > 0)
    for hook in config.harvest.hooks:
        splits = [Split(out, hook, split) for split in ("train", "eval")]
        parts = [split.shard(i) for split in splits for i in range(len(split.shards))]
        where = np.concatenate([part.sequence * 8 + part.position for part in parts])
        assert sorted(where) == np.flatnonzero(kept).tolist()
        rows = np.concatenate([part.activation for part in parts])
        np.testing.assert_allclose(rows, expected[hook].flatten(0, 1).numpy()[where], rtol=1e-5, atol=1e-5)
