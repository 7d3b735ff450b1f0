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

    by: str
    """The class and its method that stored it."""
    folder: Path
    loaded: str
    """The class that the library loads it as."""
    both: Both


def main() -> None:
    library, train, held_out, out, steps = sys.argv[1:]
    rows, held = (torch.from_numpy(np.load(path)) for path in (train, held_out))
    stored = {"saelens": saelens, "sparsify": sparsify}[library](rows, Path(out), int(steps))
    found = [
        {"folder": str(sae.folder), "stored by": sae.by, "class": sae.loaded, "d_sae": D_SAE, **scores(sae.both, held)}
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
        yield from rows[torch.randperm(len(rows))][: len(rows) // BATCH * BATCH].split(BATCH)


def saelens(rows: Tensor, out: Path, steps: int) -> Iterator[Stored]:
    """SAEs of SAELens' trainer: what its finished SAEs are stored as, and training's own classes where those are stored."""
    from sae_lens import SAE

    normalised = {"normalize_activations": "expected_average_only_in"}
    nested = {"k": K, "matryoshka_widths": [D_SAE // 4, D_SAE]}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("standard", "save_inference_model", {"l1_coefficient": 0.3}),
        ("topk", "save_inference_model", {"k": K}),
        ("topk", "save_model", {"k": K, "rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": False}),
        ("topk", "save_model", {"k": K, **normalised}),
        ("batchtopk", "save_inference_model", {"k": K}),
        ("batchtopk", "save_inference_model", {"k": K, **normalised}),
        ("matryoshka_batchtopk", "save_inference_model", nested),
        ("jumprelu", "save_inference_model", {"l0_coefficient": 0.1}),
        ("jumprelu", "save_model", {"l0_coefficient": 0.1}),
        ("gated", "save_inference_model", {"l1_coefficient": 0.3}),
    ]
    for number, (architecture, method, settings) in enumerate(asked):
        trained = _trained_by_saelens(architecture, settings, rows, steps)
        folder = out / f"{number} {architecture}"
        getattr(trained, method)(folder)
        loaded: Any = SAE.load_from_disk(folder)

        def both(x: Tensor, sae: Any = loaded) -> tuple[Tensor, Tensor]:
            codes = sae.encode(x)
            return codes, sae.decode(codes)

        yield Stored(f"{type(trained).__name__}.{method}", folder, type(loaded).__name__, both)


def _trained_by_saelens(architecture: str, settings: dict[str, Any], rows: Tensor, steps: int) -> Any:
    from sae_lens import LoggingConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    kind, config = get_sae_training_class(architecture)
    belongs = SAEMetadata(model_name="some-model", hook_name="blocks.3.hook_resid_post")
    sae = kind(config(d_in=rows.shape[1], d_sae=D_SAE, metadata=belongs, **settings))
    run = SAETrainerConfig(
        total_training_samples=steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=LR,
        lr_end=LR / 10,
        lr_decay_steps=steps // 3,
        device="cpu",
        autocast=False,
        logger=LoggingConfig(log_to_wandb=False),
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
        folder = out / f"decoder {'normalised' if normalised else 'free'}"
        trained.save_to_disk(folder)
        loaded = SparseCoder.load_from_disk(folder)

        def both(x: Tensor, sae: Any = loaded) -> tuple[Tensor, Tensor]:
            values, latents, _ = sae.encode(x)
            return values, sae.decode(values, latents)

        yield Stored("SparseCoder.save_to_disk", folder, type(loaded).__name__, both)


if __name__ == "__main__":
    assert importlib.util.find_spec("tasks") is None, "this runs in the other library's environment"
    main()
