"""What a recipe leaves out, training does not read: another value of it changes no bit of the SAE."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.config import PipelineConfig
from tasks.sae.architectures.names import NAMES
from tasks.sae.mesh import OneProcess
from tasks.sae.reads import unread_by
from tasks.storage.objects import open_store
from tasks.train.recipe import unread_of_training
from tasks.train.worker import Worker
from tests.composed import run_settings

OTHER: dict[str, Any] = {
    "k": 5,
    "k_start": 9,
    "aux_k": 4,
    "aux_coefficient": 0.5,
    "prefixes": (8, 24),
    "l1_coefficient": 0.1,
    "p_final": 0.5,
    "l0_coefficient": 2.0,
    "tanh_coefficient": 3.0,
    "tanh_scale": 2.0,
    "pre_act_coefficient": 1e-4,
    "bandwidth": 0.1,
}
OTHER_OF_TRAINING: dict[str, Any] = {"sparsity_warmup_fraction": 0.4, "k_anneal_fraction": 0.3}


def trained(config: PipelineConfig, activations: str, out: Path) -> bytes | memoryview:
    worker = Worker(run_settings(config), activations, str(out), OneProcess())
    worker.finish(worker.train())
    return open_store(str(out)).get("sae.safetensors")


@pytest.mark.parametrize("arch", NAMES)
def test_what_an_architecture_does_not_read_changes_no_bit_of_it(
    arch: str, tiny_run: Callable[..., tuple[PipelineConfig, str]], tmp_path: Path
) -> None:
    config, activations = tiny_run(sae={"arch": arch}, tokens=20 * 32)
    unread = {name: OTHER[name] for name in unread_by(arch) - {"d_in"}}
    of_training = unread_of_training(config.train, config.sae)
    assert unread
    other = config.model_copy(
        update={
            "sae": replace(config.sae, **unread),
            "train": config.train.model_copy(
                update={name: value for name, value in OTHER_OF_TRAINING.items() if name in of_training}
            ),
        }
    )
    assert trained(other, activations, tmp_path / "other") == trained(config, activations, tmp_path / "one")
