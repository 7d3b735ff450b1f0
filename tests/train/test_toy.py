"""The textbook example finds its three concepts: configs/toy.yaml, trained as it stands but for the seed."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from flows.config import load_config
from tasks.progress import silent
from tasks.sae import load
from tasks.sae.mesh import OneProcess
from tasks.train.worker import Worker
from tests.composed import ingest, run_settings

ROOT = Path(__file__).parents[2]
GROUPS = {
    "animal": {"cat", "happy cat", "dog", "loyal dog"},
    "robot and AI assistant": {"robot", "AI assistant"},
    "not an animal": {"not cat", "not dog", "robot", "AI assistant"},
}


@pytest.fixture(params=range(5))
def codes(request, tmp_path, monkeypatch) -> dict[str, torch.Tensor]:
    """Codes of each concept under an SAE trained with one of five seeds."""
    monkeypatch.chdir(ROOT)
    config = load_config("configs/toy.yaml", [f"train.seed={request.param}"], str(tmp_path))
    activations = f"{tmp_path}/activations/toy-{'0' * 12}"
    ingest(config, activations, silent)
    worker = Worker(run_settings(config), activations, str(tmp_path / "sae"), OneProcess())
    worker.finish(worker.train())
    table = pq.read_table(config.activations.source)
    rows = load(str(tmp_path / "sae")).encode(torch.tensor(table["activation"].to_pylist()))
    return dict(zip(table["label"].to_pylist(), rows, strict=True))


def test_each_concept_has_a_latent_that_is_active_on_it_and_silent_on_all_else(codes):
    for name, group in GROUPS.items():
        weakest = torch.stack([codes[label] for label in group]).amin(0)
        elsewhere = torch.stack([codes[label] for label in codes if label not in group]).amax(0)
        separating = (weakest > 0.05) & (elsewhere < 0.1 * weakest)
        assert separating.any(), f"no latent separates {name!r} from the rest"
