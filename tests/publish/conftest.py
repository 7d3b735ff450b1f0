import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tasks.progress import silent
from tasks.publish.build import BuiltFolder, PublishOrder, build
from tasks.publish.neuronpedia import calls
from tasks.sae import SAEConfig, load, save
from tasks.sae.model import SparseAutoencoder
from tasks.sae.scaling import Weights
from tasks.storage.artifacts import write_manifest
from tests.report.stages import language_model_stages

D_IN, N_LATENTS, DEAD, HOSTILE = 6, 120, 5, 3
HOOK, MODEL, REPO = "model.layers.8", "org/tiny-model", "org/tiny-saes"
RECIPE = {"score": {"quantiles": 3}, "hook": HOOK}

Build = Callable[..., BuiltFolder]


@dataclass(frozen=True)
class Inputs:
    """An SAE and its scores, as training and scoring leave them."""

    sae: str
    scores: str
    activations: str


def write_sae(folder: Path, d_sae: int, arch: str = "topk", **facts: Any) -> None:
    """An SAE of random weights with its manifest, in place of what is there."""
    generator = torch.Generator().manual_seed(1)
    encoder, decoder = (torch.randn(*shape, generator=generator) for shape in ((D_IN, d_sae), (d_sae, D_IN)))
    extra = {"threshold": torch.full((d_sae,), 0.5)} if arch == "batchtopk" else {}
    weights = Weights(encoder, torch.randn(d_sae, generator=generator), decoder / 4, torch.full((D_IN,), 0.5), extra)
    sae = SparseAutoencoder(SAEConfig(arch=arch, d_in=D_IN, d_sae=d_sae, k=4), weights)  # type: ignore[arg-type]
    known = {"model": MODEL, "hook": HOOK, "training": {"tokens": 1_000_448, "steps": 977, "lr": 1e-3}}
    save(sae, str(folder), known | facts)
    (folder / "manifest.json").unlink(missing_ok=True)
    write_manifest(str(folder), {"stage": "saes", "recipe": {"sae": {"k": 4}, "train": {"seed": 0}}, "objects": {}})


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """120 latents with invented scores: one is dead, one has the nastiest of tokens."""
    stages = language_model_stages(tmp_path_factory.mktemp("publish"), N_LATENTS)
    write_sae(Path(stages.sae), N_LATENTS)
    scores = Path(stages.scores)
    of = {"sae": "23456789abcd", "activations": "123456789abc", "tokens": None}
    named = {**of, "stage": "scores", "recipe": RECIPE, "objects": {"x": 1}}
    (scores / "manifest.json").write_text(json.dumps(named))
    summary = json.loads((scores / "summary.json").read_text())
    (scores / "summary.json").write_text(json.dumps({**summary, "d_in": D_IN, "d_sae": N_LATENTS}))
    _measure_weights(stages.sae, scores / "latents.parquet")
    return Inputs(stages.sae, stages.scores, stages.activations)


def _measure_weights(uri: str, path: Path) -> None:
    """The columns that tell whose scores they are, as the SAE's weights have them."""
    sae, table = load(uri), pq.read_table(path)
    with torch.inference_mode():
        measured = {
            "decoder_norm": sae.W_dec.norm(dim=1),
            "encoder_decoder_cosine": torch.nn.functional.cosine_similarity(sae.W_enc.T, sae.W_dec, dim=1),
        }
    for name, values in measured.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values.numpy().astype(np.float64)))
    pq.write_table(table, path)


@pytest.fixture(scope="session")
def built_before() -> dict[object, Path]:
    """Folders by what was asked for: a build takes as long as a hundred copies."""
    return {}


@pytest.fixture
def make(
    inputs: Inputs, tmp_path: Path, built_before: dict[object, Path], tmp_path_factory: pytest.TempPathFactory
) -> Build:
    """Build a folder: ``make(["hf"], out=..., name=...)``; of one that was built before for another test, a copy."""

    def made(to: list[Any], **more: Any) -> BuiltFolder:
        asked = {"saes": [inputs.sae], "scores": [inputs.scores], "out": f"{tmp_path}/out", "name": REPO, "layers": 30}
        key = (*to, calls.MOST_FEATURES, calls.MOST_BYTES)
        if not more and key not in built_before:
            built_before[key] = tmp_path_factory.mktemp("built") / "out"
            build(PublishOrder(to=to, **{**asked, "out": str(built_before[key])}), silent)
        if not more and not Path(f"{tmp_path}/out").exists():
            shutil.copytree(built_before[key], f"{tmp_path}/out")
        return build(PublishOrder(to=to, **(asked | more)), silent)

    return made


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 calls where one would do."""
    monkeypatch.setattr(calls, "MOST_FEATURES", 4)


def tree(folder: Path) -> dict[str, bytes]:
    """All files by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def firing(rows: list[dict[str, Any]]) -> list[int]:
    """Latents that have something to show."""
    return [row["latent"] for row in rows if row["n_active"]]
