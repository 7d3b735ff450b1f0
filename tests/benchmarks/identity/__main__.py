"""Are planted latents of a trained SAE found again, and how long does it take?

    python -m tests.benchmarks.identity [--json FILE] [--storage DIR] [--quick]

Two seeds of the demo's SAE on SmolLM2-135M-Instruct after layer 8: 4,608 latents, k 32. One of them is matched

- with itself in another order, as a permuted copy on storage: all have to be the same, and codes equal to the bit;
- with itself in another order, all directions turned by noise to a cosine of .95 (encoder and decoder each by its own), 5%
  of the latents deleted and 5% of random directions added: at least 99% have to be right, and died and born exact;
- with the other seed, which is the ceiling of any retrain.

Then a dictionary of 65,536 random directions is matched with itself, planted likewise, for time and memory.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tasks.activations.reader import Split
from tasks.hook_roles import HookRoles
from tasks.identity.matching import Matching, matching
from tasks.identity.permute import groups, kept, order_like, permute_on_save
from tasks.identity.sources import ROWS, Pair, compared, first_rows
from tasks.progress import silent
from tasks.sae import SAEConfig, SparseAutoencoder, load
from tasks.sae.scaling import Weights
from tests.benchmarks.command_line import SMALL, ran
from tests.benchmarks.harness import arguments, environment, finish, peak_bytes
from tests.identity.planted import reborn, shuffled

HOOK = "model.layers.8"
WIDE, COSINE, LOST = 65_536, 0.95, 0.05
CONFIG = "configs/demo.yaml"


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where = environment() | {"threads": torch.get_num_threads()}
    settings = SMALL if options.quick else ()
    runs = [ran("train", CONFIG, str(options.storage), [*settings, f"train.seed={seed}"]) for seed in (0, 1)]
    first, second, activations = load(runs[0]["sae"]), load(runs[1]["sae"]), runs[0]["activations"]
    checks: dict[str, float] = {}
    rows = [
        _copied(first, runs[0]["sae"], activations, checks),
        _planted(first, activations, checks, "planted"),
        _matched("another seed", first, second, activations)[0],
    ]
    if not options.narrow:
        rows.append(_planted(_wide(first, activations, options.wide), activations, checks, "planted, random directions"))
    finish(options.json, checks, rows, where)
    sys.exit(0 if all(checks[name] >= least for name, least in LEAST.items() if name in checks) else 1)


LEAST = {"permuted copy: same": 1.0, "permuted copy: equal bits": 1.0, "planted: right": 0.99, "planted: exact": 1.0}
"""What must be reached."""


def _add(parser: argparse.ArgumentParser) -> None:
    default = Path(tempfile.gettempdir()) / "saemill-identity"
    parser.add_argument("--storage", type=Path, default=default, help="where the demo's SAEs are made, or are already")
    parser.add_argument("--wide", type=int, default=WIDE, help="latents of the dictionary of random directions")
    parser.add_argument("--narrow", action="store_true", help="leave it out")


def _copied(sae: SparseAutoencoder, uri: str, activations: str, checks: dict[str, float]) -> dict[str, Any]:
    """The SAE against a stored copy in another order, put back by what was found."""
    with tempfile.TemporaryDirectory() as folder:
        shuffle = shuffled(sae.d_sae).numpy()
        other = load(permute_on_save(uri, uri, shuffle, f"{folder}/shuffled").uri)
        row, found = _matched("permuted copy", sae, other, activations)
        order = order_like(found.b.partner, groups(other))
        back = load(permute_on_save(f"{folder}/shuffled", uri, order, f"{folder}/back").uri)
    checks["permuted copy: same"] = found.shares["same"]
    x = first_rows(_pair(sae, other, activations))
    exact = [kept(other, back, order, x), kept(sae, back, np.arange(sae.d_sae), x)]
    checks["permuted copy: equal bits"] = float(all(each.codes_differing == 0 for each in exact))
    checks["permuted copy: largest difference of a reconstruction"] = exact[0].reconstruction_difference
    return row


def _planted(sae: SparseAutoencoder, activations: str, checks: dict[str, float], name: str) -> dict[str, Any]:
    lost = round(LOST * sae.d_sae)
    order = shuffled(sae.d_sae)[: sae.d_sae - lost]
    b = reborn(sae, order, COSINE, lost, seed=1, mean=_mean(activations))
    row, found = _matched(name, sae, b, activations)
    checks[f"{name}: right"] = float((found.b.partner[: len(order)] == order.numpy()).mean())
    born = set(np.flatnonzero(found.b.kind == "born")) == set(range(len(order), sae.d_sae))
    died = set(np.flatnonzero(found.a.kind == "died")) == set(range(sae.d_sae)) - set(order.tolist())
    checks[f"{name}: exact"] = float(born and died)
    return row


def _matched(name: str, a: SparseAutoencoder, b: SparseAutoencoder, activations: str) -> tuple[dict[str, Any], Matching]:
    """A line of the table, with the time from codes to classes, and what was found."""
    began = time.monotonic()
    comparison = compared(_pair(a, b, activations), ROWS, silent)
    encoded = time.monotonic()
    found = matching(comparison)
    row = {
        "A against": name,
        "latents": a.d_sae,
        "rows": found.rows,
        **{kind: f"{share:.1%}" for kind, share in found.shares.items()},
        "cosine": found.cosine,
        "null": found.null,
        "encoding, s": encoded - began,
        "matching, s": time.monotonic() - encoded,
        "peak GiB": peak_bytes() / 2**30,
    }
    return row, found


def _pair(a: SparseAutoencoder, b: SparseAutoencoder, activations: str) -> Pair:
    return Pair(a, b, HookRoles.of_sae(HOOK), activations, "eval")


def _mean(activations: str) -> Tensor:
    return torch.tensor(Split(activations, HOOK, "train").statistics["mean"], dtype=torch.float32)


def _wide(like: SparseAutoencoder, activations: str, d_sae: int) -> SparseAutoencoder:
    """Random directions about the mean, of which 32 are active on a row."""
    W_dec = normalize(torch.randn(d_sae, like.d_in, generator=torch.Generator().manual_seed(0)))
    mean = _mean(activations)
    config = SAEConfig(arch="topk", d_in=like.d_in, d_sae=d_sae, k=32)
    weights = Weights(W_dec.T.contiguous(), -(W_dec @ mean), W_dec, mean)
    return SparseAutoencoder(config, weights).requires_grad_(requires_grad=False)


if __name__ == "__main__":
    main()
