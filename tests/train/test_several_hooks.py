"""Transcoders and crosscoders, trained on stored rows of several hooks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.config import PipelineConfig, parse_config
from tasks.activations.multi_hook import JoinedSplit
from tasks.activations.writer import Rows
from tasks.errors import InputError
from tasks.hook_roles import ENTRY
from tasks.sae import SparseAutoencoder, load
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_json
from tasks.storage.objects import open_store
from tasks.train.checkpoint import run_to_files
from tasks.train.checkpoint_names import checkpoint_name
from tasks.train.loop import Run
from tasks.train.worker import Worker
from tests.composed import run_settings
from tests.stored import store_hooks

WIDTHS = {"early": 12, "late": 9}


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same sparse features at both hooks, in other directions; the late hook is 50 times as large."""
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(1200, 16)) * (rng.random((1200, 16)) < 0.12)
    found = {}
    for (hook, width), size in zip(WIDTHS.items(), (1.0, 50.0), strict=True):
        activation = (codes @ rng.normal(size=(16, width)) * size + 3 * size).astype(np.float32)
        places = (np.arange(1200, dtype=np.int32), np.arange(1200) // 6, (np.arange(1200) % 6).astype(np.int32))
        shards = [Rows(activation, *places).take(np.arange(first, first + 400)) for first in (0, 400, 800)]
        found[hook] = (shards[:2], shards[2:])
    return store_hooks(str(tmp_path_factory.mktemp("hooks") / "activations"), found, row_group_rows=64)


def settings(sae: dict[str, Any] | None = None, **train: Any) -> PipelineConfig:
    schedule = {"tokens": 16_000, "batch_tokens": 64, "lanes": 4, "workers": 1, "precision": "fp32", "lr": 0.01}
    return parse_config(
        {
            "text": {"source": "unused.txt"},
            "harvest": {"hooks": list(WIDTHS)},
            "sae": {"d_sae": 48, "k": 3, **(sae or {})},
            "train": {**schedule, **train},
        }
    )


def trained(config: PipelineConfig, activations: str, out: Path) -> SparseAutoencoder:
    worker = Worker(run_settings(config), activations, str(out), OneProcess())
    worker.finish(worker.train())
    return load(str(out))


def held_out(activations: str, hooks: list[str]) -> torch.Tensor:
    return torch.from_numpy(JoinedSplit(activations, hooks, "eval").shard(0).activation)


def fvu(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("arch", ["topk", "batchtopk"])
def test_a_crosscoder_rebuilds_every_hook_however_large_it_is(activations: str, tmp_path: Path, arch: str) -> None:
    sae = trained(settings({"arch": arch}, hooks=["early", "late"]), activations, tmp_path)
    assert (sae.d_in, sae.d_out) == (21, 21)
    x = held_out(activations, ["early", "late"])
    x_hat = sae(x)
    assert fvu(x[:, :12], x_hat[:, :12]) < 0.2
    assert fvu(x[:, 12:], x_hat[:, 12:]) < 0.2


def linear_fvu(x: torch.Tensor, y: torch.Tensor) -> float:
    """With the map fitted to these very rows."""
    ones = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    return fvu(y.double(), ones @ torch.linalg.lstsq(ones, y.double()).solution)


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_rebuilds_one_hook_from_another_better_than_a_linear_map(
    activations: str, tmp_path: Path, skip: bool
) -> None:
    sae = trained(settings({"skip": skip}, hook="early", target_hook="late"), activations, tmp_path)
    assert (sae.d_in, sae.d_out) == (12, 9)
    rows = held_out(activations, ["early", "late"])
    x, y = rows[:, :12], rows[:, 12:]
    assert fvu(y, sae(x)) < 0.7 * linear_fvu(x, y)
    settings_kept = read_json(str(tmp_path), "config.json")
    assert settings_kept is not None
    assert settings_kept[ENTRY] == {"inputs": ["early"], "outputs": ["late"]}


def test_a_crosscoder_goes_on_from_a_checkpoint_as_if_never_stopped(activations: str, tmp_path: Path) -> None:
    config = settings(hooks=["late", "early"], tokens=64 * 40, checkpoint_every_tokens=64 * 10)

    class StoppedError(Exception):
        pass

    def keep(run: Run) -> None:
        for name, data in run_to_files(run).items():
            open_store(str(tmp_path / "killed")).put(f"checkpoints/{checkpoint_name(run.state.step)}/{name}", data)
        if run.state.step >= 20:
            raise StoppedError

    with pytest.raises(StoppedError):
        Worker(run_settings(config), activations, str(tmp_path / "killed"), OneProcess()).train(on_checkpoint=keep)
    resumed, whole = (trained(config, activations, tmp_path / name) for name in ("killed", "undisturbed"))
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_width_is_that_of_all_hooks_together(activations: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sae\.d_in is 12 but activations of early, late have 21 features"):
        Worker(run_settings(settings({"d_in": 12}, hooks=["early", "late"])), activations, str(tmp_path), OneProcess())


def test_what_is_read_cannot_be_the_target() -> None:
    with pytest.raises(InputError, match=r"train\.target_hook is 'early', which is what is read"):
        settings(hook="early", target_hook="early")
