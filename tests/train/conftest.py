from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.config import PipelineConfig, parse_config
from tasks.progress import silent
from tests.composed import ingest

CHECKED = {"test_loop", "test_distributed", "test_options", "test_several_hooks"}
"""Files whose tests check shapes: every architecture, and workers by rows and by latents."""


@pytest.fixture(autouse=True)
def shapes_in_some_files(request: pytest.FixtureRequest) -> None:
    """A step of tiny size takes four times as long where shapes are checked; tests/sae checks each function's by itself."""
    if request.module.__name__.rpartition(".")[2] not in CHECKED:
        request.getfixturevalue("unchecked")


def pipeline(tmp_path: Path, **settings: Any) -> PipelineConfig:
    """A tiny run on activations of the user's own: 600 rows in 6 dimensions that are sparse sums of 12 directions."""
    source = tmp_path / "rows.npy"
    if not source.exists():
        rng = np.random.default_rng(0)
        codes = rng.exponential(size=(600, 12)) * (rng.random((600, 12)) < 0.2)
        np.save(source, (codes @ rng.normal(size=(12, 6)) + 3).astype(np.float32))
    train = {"tokens": 1280, "batch_tokens": 32, "lanes": 4, "workers": 1, "precision": "fp32", "lr": 0.01}
    return parse_config(
        {
            "storage": str(tmp_path),
            "activations": {"source": str(source), "eval_fraction": 0},
            "sae": {"d_sae": 24, "k": 3, **settings.pop("sae", {})},
            "train": {**train, **settings},
            "ray": {"num_cpus": 4},
        }
    )


def make_run(folder: Path, **settings: Any) -> tuple[PipelineConfig, str]:
    """Settings with overrides, and the address of their activations, ingested below a folder."""
    config = pipeline(folder, **settings)
    activations = f"{folder}/activations/tiny-{'0' * 12}"
    ingest(config, activations, silent)
    return config, activations


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., tuple[PipelineConfig, str]]:
    """Settings with overrides, and the address of their ingested activations."""

    return partial(make_run, tmp_path)
