"""Another library's SAEs, trained and stored by its own classes; runs in that library's environment, for ``__main__.py``.

Each is loaded again as the library's users load it; FVU and L0 of the held-out rows are of its own encode and decode there.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

D_SAE, K, BATCH = 256, 8, 256
LR = 2e-3

Both = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Codes of rows, of which only the active ones are positive, and what is rebuilt of them."""


@dataclass(frozen=True)
class Stored:
    """An SAE on disk, and as it is loaded from there."""

    name: str
    by: str
    """The method that stored it, with its class."""
    folder: Path
    loaded: str
    """The class that the library loads it as."""
    both: Both


def main() -> None:
    torch.set_num_threads(1)  # of such small matrices; two that wait for each other on a busy machine take far longer
    library, train, held_out, out, steps = sys.argv[1:]
    rows, held = (torch.from_numpy(np.load(path)) for path in (train, held_out))
    stored = {"saelens": saelens, "sparsify": sparsify}[library](rows, Path(out), int(steps))
    found = [
        {"sae": sae.name, "stored by": sae.by, "class": sae.loaded, "folder": str(sae.folder), **scores(sae.both, held)}
        for sae in stored
    ]
    Path(out, "found.json").write_text(json.dumps(found))


@torch.inference_mode()
def scores(both: Both, rows: Tensor) -> dict[str, float]:
    """FVU, with the mean of the same rows, and active latents of a row: codes in float32 as ever, totals in float64."""
    codes, rebuilt = both(rows)
    x = rows.double()
    error, deviation = (rebuilt.double() - x).square().sum(), (x - x.mean(0)).square().sum()
    return {"their fvu": float(error / deviation), "their l0": int((codes > 0).sum()) / len(rows)}


def batches(rows: Tensor) -> Iterator[Tensor]:
    """Batches without an end, each epoch in an order of its own."""
    while True:
        yield from torch.split(rows[torch.randperm(len(rows))][: len(rows) // BATCH * BATCH], BATCH)


def saelens(rows: Tensor, out: Path, steps: int) -> Iterator[Stored]:
    """SAEs of SAELens' trainer: finished ones, as they are stored for use and as training stores them, and a checkpoint."""
    from sae_lens import SAE
    from sae_lens.constants import ACTIVATION_SCALER_CFG_FILENAME
    from sae_lens.training.activation_scaler import ActivationScaler

    scaled, whitened = ({"normalize_activations": name} for name in ("expected_average_only_in", "covariance_whitening"))
    plain = {"rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": False}
    asked: dict[str, tuple[str, str, dict[str, Any]]] = {
        "standard": ("standard", "save_inference_model", {"l1_coefficient": 1.0}),
        "topk": ("topk", "save_inference_model", {"k": K}),
        "topk, b_dec and norms left out": ("topk", "save_model", {"k": K, **plain}),
        "topk checkpoint, scaled rows": ("topk", "", {"k": K, **scaled}),
        "batchtopk": ("batchtopk", "save_inference_model", {"k": K}),
        "batchtopk, scaled rows": ("batchtopk", "save_inference_model", {"k": K, **scaled}),
        "batchtopk, whitened rows": ("batchtopk", "save_inference_model", {"k": K, **whitened}),
        "matryoshka": ("matryoshka_batchtopk", "save_inference_model", {"k": K, "matryoshka_widths": [D_SAE // 4, D_SAE]}),
        "jumprelu": ("jumprelu", "save_inference_model", {"l0_coefficient": 0.3}),
        "jumprelu in training": ("jumprelu", "save_model", {"l0_coefficient": 0.3}),
        "gated": ("gated", "save_inference_model", {"l1_coefficient": 1.0}),
    }
    for name, (architecture, method, settings) in asked.items():
        folder, scaler = out / name, ActivationScaler()
        trained = _trained_by_saelens(architecture, settings, rows, steps, None if method else folder)
        if method:
            by = f"{type(trained).__name__}.{method}"
            getattr(trained, method)(folder)
        else:
            by = "SAETrainer.save_checkpoint"
            (folder,) = folder.iterdir()
            scaler.load(folder / ACTIVATION_SCALER_CFG_FILENAME)
        loaded: Any = SAE.load_from_disk(folder)

        def both(x: Tensor, sae: Any = loaded, scaler: ActivationScaler = scaler) -> tuple[Tensor, Tensor]:
            codes = sae.encode(scaler.scale(x))
            return codes, scaler.unscale(sae.decode(codes))

        yield Stored(name, by, folder, type(loaded).__name__, both)


def _trained_by_saelens(
    architecture: str, settings: dict[str, Any], rows: Tensor, steps: int, checkpoint: Path | None
) -> Any:
    """The finished SAE; halfway a checkpoint is stored below a folder where there is one."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    kind, config = get_sae_training_class(architecture)
    belongs = SAEMetadata(model_name="some-model", hook_name="blocks.3.hook_resid_post")
    sae: Any = kind(config(d_in=rows.shape[1], d_sae=D_SAE, metadata=belongs, **settings))
    if sae.cfg.normalize_activations == "none":
        sae.b_dec.data = rows.mean(0)
    run = SAETrainerConfig(
        total_training_samples=steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=LR,
        lr_end=LR / 10,
        lr_decay_steps=steps // 3,
        n_batches_for_norm_estimate=10,
        n_checkpoints=0 if checkpoint is None else 1,
        checkpoint_path=None if checkpoint is None else str(checkpoint),
    )
    SAETrainer(run, sae, batches(rows)).fit()
    return sae


def sparsify(rows: Tensor, out: Path, steps: int) -> Iterator[Stored]:
    """Of each way to hold the decoder one SAE, by sparsify's class and what its ``Trainer.fit`` does with it on a step."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    from sparsify import SparseCoder, SparseCoderConfig

    for normalised in (True, False):
        torch.manual_seed(0)
        config = SparseCoderConfig(num_latents=D_SAE, k=K, normalize_decoder=normalised)
        trained = SparseCoder(rows.shape[1], config, "cpu", torch.float32)
        trained.b_dec.data = rows.mean(0)
        adam = torch.optim.Adam(trained.parameters(), lr=LR)
        for x in islice(batches(rows), steps):
            if normalised:
                trained.set_decoder_norm_to_unit_norm()
            trained(x).fvu.backward()
            if normalised:
                trained.remove_gradient_parallel_to_decoder_directions()
            adam.step()
            adam.zero_grad()
        name = f"topk, {'normalised' if normalised else 'free'} decoder"
        trained.save_to_disk(out / name)
        loaded = SparseCoder.load_from_disk(out / name)

        def both(x: Tensor, sae: Any = loaded) -> tuple[Tensor, Tensor]:
            values, latents, _ = sae.encode(x)
            return values, sae.decode(values, latents)

        yield Stored(name, "SparseCoder.save_to_disk", out / name, type(loaded).__name__, both)


if __name__ == "__main__":
    assert importlib.util.find_spec("tasks") is None, "this runs in the other library's environment"
    main()
