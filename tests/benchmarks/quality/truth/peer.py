"""SAELens' side; runs in SAELens' own environment.

``make FOLDER SETTINGS`` draws a stream with known features; ``train FOLDER SETTINGS OUT`` trains one of SAELens' SAEs on it
with its own trainer, saves it for inference, loads that, and writes its codes of the held-out rows.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE, LoggingConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.synthetic import (
    ConstantFiringProbabilityConfig,
    FoldedNormalMagnitudeConfig,
    HierarchyConfig,
    LinearMagnitudeConfig,
    LowRankCorrelationConfig,
    OrthogonalizationConfig,
    SyntheticModel,
    SyntheticModelConfig,
    SyntheticSAERunnerConfig,
    ZipfianFiringProbabilityConfig,
)
from sae_lens.training.sae_trainer import SAETrainer

_PIECE = 8192


def model_config(settings: dict[str, Any]) -> SyntheticModelConfig:
    """The 16k benchmark's settings at another size, or a toy of independent features that fire alike."""
    shared = {"num_features": settings["features"], "hidden_dim": settings["d_in"], "seed": settings["seed"]}
    if settings["kind"] == "toy":
        return SyntheticModelConfig(
            **shared,
            firing_probability=ConstantFiringProbabilityConfig(settings["p"]),
            orthogonalization=OrthogonalizationConfig(),
            std_firing_magnitudes=0.15,
            bias=False,
        )
    return SyntheticModelConfig(
        **shared,
        firing_probability=ZipfianFiringProbabilityConfig(max_prob=0.4, min_prob=5e-4, exponent=0.5),
        hierarchy=HierarchyConfig(
            total_root_nodes=settings["features"] // 128,
            branching_factor=4,
            mutually_exclusive_portion=1.0,
            compensate_probabilities=True,
            scale_children_by_parent=True,
            max_depth=3,
        ),
        mean_firing_magnitudes=LinearMagnitudeConfig(start=5.0, end=4.0),
        std_firing_magnitudes=FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
        correlation=LowRankCorrelationConfig(correlation_scale=0.1, rank=25),
        orthogonalization=OrthogonalizationConfig(num_steps=100, lr=3e-4),
        bias=0.5,
    )


def make(folder: Path, settings: dict[str, Any]) -> None:
    """Write ``held`` and ``train`` rows (float16), which features fire on the former (bits), and all directions."""
    model = SyntheticModel(model_config(settings))
    torch.manual_seed(settings["seed"] + 1_000)
    folder.mkdir(parents=True, exist_ok=True)
    fires = np.empty((settings["held"], -(-settings["features"] // 8)), np.uint8)
    for name, n in (("held", settings["held"]), ("train", settings["samples"])):
        rows = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (n, settings["d_in"]))
        for start in range(0, n, _PIECE):
            x, features = model.sample_with_features(min(_PIECE, n - start))
            rows[start : start + len(x)] = x.half().numpy()
            if name == "held":
                fires[start : start + len(x)] = np.packbits((features > 0).numpy(), axis=1)
        rows.flush()
    np.save(folder / "fires.npy", fires)
    np.save(folder / "directions.npy", model.feature_dict.feature_vectors.detach().numpy())


def batches(rows: np.ndarray, size: int) -> Iterator[torch.Tensor]:
    """Batches in the order of the stream, from its beginning again where it ends."""
    while True:
        for start in range(0, len(rows) - size + 1, size):
            yield torch.from_numpy(rows[start : start + size].astype(np.float32))


def train(folder: Path, settings: dict[str, Any], out: Path) -> None:
    """Train, and write codes of the held-out rows with the decoder that they are for."""
    torch.manual_seed(settings["seed"])
    rows = np.load(folder / "train.npy", mmap_mode="r")[: settings["samples"]]
    kind, config = get_sae_training_class(settings["architecture"])
    sae = kind(config(d_in=rows.shape[1], d_sae=settings["d_sae"], **settings["sae"]))
    runner = SyntheticSAERunnerConfig(
        synthetic_model=model_config({"kind": "toy", "features": 2, "d_in": 2, "seed": 0, "p": 0.5}),  # not used
        sae=sae.cfg,
        training_samples=settings["samples"],
        batch_size=settings["batch"],
        lr=settings["lr"],
        lr_decay_steps=settings["samples"] // settings["batch"] // 3,
        n_batches_for_norm_estimate=100,
        dead_feature_window=settings["dead_window"],
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
    )
    began = time.monotonic()
    SAETrainer(runner.to_sae_trainer_config(), sae, batches(rows, settings["batch"])).fit()
    seconds = time.monotonic() - began
    with tempfile.TemporaryDirectory() as saved:
        sae.save_inference_model(saved)
        finished = SAE.load_from_disk(saved)
    np.savez(out, seconds=seconds, **held_out(finished, np.load(folder / "held.npy", mmap_mode="r")))


@torch.inference_mode()
def held_out(sae: SAE[Any], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Active latents of each row, what the SAE makes of them, and the decoder."""
    counts, latents, values = [], [], []
    W_dec, b_dec = sae.W_dec.detach(), sae.b_dec.detach()
    for start in range(0, len(rows), _PIECE):
        x = torch.from_numpy(rows[start : start + _PIECE].astype(np.float32))
        codes = sae.encode(x)
        torch.testing.assert_close(sae.decode(codes), codes @ W_dec + b_dec, rtol=1e-3, atol=1e-3)
        where = codes.nonzero(as_tuple=True)
        counts.append((codes != 0).sum(1).numpy())
        latents.append(where[1].numpy().astype(np.int32))
        values.append(codes[where].numpy())
    parts = {"counts": counts, "latents": latents, "values": values}
    return {name: np.concatenate(part) for name, part in parts.items()} | {"W_dec": W_dec.numpy(), "b_dec": b_dec.numpy()}


if __name__ == "__main__":
    command, place, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    if command == "make":
        make(place, given)
    else:
        train(place, given, Path(sys.argv[4]))
