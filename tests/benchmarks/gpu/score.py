"""Scoring on one card: a survey of rows in main memory beside a bare encode pass, and small scores held against the CPU's.

The bare pass encodes rows that lie on the card, in the same chunks and precision, and keeps nothing of them. Without a card,
or with ``--quick``, a tiny SAE shows that it works.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.activations.tensors import as_array, as_tensor, from_stored
from tasks.activations.writer import Rows
from tasks.encode.chunks import chunk_rows, in_chunks
from tasks.encode.pieces import Piece
from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.scaling import Weights
from tasks.score.baselines import baselines, fit
from tasks.score.config import ScoreConfig
from tasks.score.device_survey import survey_on_device
from tasks.score.examples import Hits
from tasks.score.logits import neighbours
from tasks.score.splice import splice
from tasks.score.stability import stability
from tasks.score.summary import summary
from tasks.score.survey import Survey, survey
from tests.benchmarks import rounds
from tests.benchmarks.rounds import interleaved, per_second

ROUNDS = 3
CONTEXT = 256
CONFIG = ScoreConfig()
FIGURES = ("fvu", "fvu_without_high_norm", "l0", "dead_fraction", "dense_fraction", "cosine", "shrinkage", "gamma")

Pieces = list[tuple[Piece, Rows]]


@dataclass(frozen=True)
class Size:
    """An SAE, and the rows on which it is scored."""

    d_in: int
    d_sae: int
    k: int
    pieces: int
    piece_rows: int = 32_768
    bare_pieces: int = 8
    """Pieces of the bare pass, whose speed does not depend on their number."""

    @property
    def median_norm(self) -> float:
        """Half of what the rows' norms are about, so that about half of the rows count as of high norm."""
        return float((torch.arange(1, self.d_in + 1) ** -1.0).sum().sqrt()) / 2


LARGE = Size(2048, 65_536, 64, pieces=32)
TINY = Size(64, 512, 8, pieces=2, piece_rows=2048, bare_pieces=1)
COMPARED = Size(64, 1024, 8, pieces=2, piece_rows=2048)


def run(options: Any) -> dict[str, Any]:
    """Speeds and memory, and how far scores are from those of a CPU."""
    device = options.device
    size = TINY if device == "cpu" or getattr(options, "quick", False) else LARGE
    speeds = {f"d_in {size.d_in}, d_sae {size.d_sae}, k {size.k}": measured(size, device)}
    return speeds | {"held against a CPU": held_against_a_cpu(device)}


def measured(size: Size, device: str) -> dict[str, Any]:
    """Rows per second of a survey and of the bare pass, and what the weights' share of scoring takes."""
    sae, pieces = random_sae(size, device), random_pieces(size, device)
    survey_on_device(sae, pieces[:1], "bfloat16", [size.median_norm], CONFIG)  # sets up memory and libraries
    resident = torch.cat([numbers(rows, device) for _, rows in pieces[: size.bare_pieces]])
    n_rows = sum(piece.rows for piece, _ in pieces)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    contenders = {
        "bare encode pass": lambda: per_second(len(resident), lambda: bare_pass(sae, resident)),
        "survey": lambda: per_second(n_rows, lambda: survey_on_device(sae, pieces, "bfloat16", [size.median_norm], CONFIG)),
    }
    found = interleaved(contenders, ROUNDS)
    peak = None if device == "cpu" else (torch.cuda.max_memory_allocated() - resident.nbytes) / 2**30
    return {
        "rows_per_second": rounds.rows(found, "rows/s", "bare encode pass"),
        "rows": n_rows,
        "peak_gib": peak,
        "neighbours_seconds": _seconds(lambda: neighbours(sae.W_dec, CONFIG.neighbours)),
        "stability_seconds": _seconds(lambda: stability(sae, sae)),
    }


def bare_pass(sae: SparseAutoencoder, rows: Tensor) -> None:
    """Codes of all rows, none of which is kept."""
    for x in in_chunks(rows, chunk_rows(sae.d_sae, rows.device)):
        sae.encode_sparse(x.float())
    if rows.is_cuda:
        torch.cuda.synchronize()


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()  # its result lies in main memory
    return time.perf_counter() - began


def held_against_a_cpu(device: str) -> dict[str, float]:
    """How far what is computed on a device is from what a CPU computes, by the code that it runs there."""
    size = COMPARED
    sae, pieces = random_sae(size, "cpu"), random_pieces(size, "cpu")
    there = copy.deepcopy(sae).to(device)
    medians = [size.median_norm]
    theirs = reduce(add, [survey(sae, rows, "bfloat16", piece, medians, CONFIG) for piece, rows in pieces])
    ours = reduce(add, survey_on_device(there, pieces, "bfloat16", medians, CONFIG))
    near, near_there = (neighbours(one.W_dec, CONFIG.neighbours) for one in (sae, there))
    return {
        "summary_differs_by": _relative(_figures(ours), _figures(theirs)),
        "latents_that_fire_on_other_rows": int((ours.latents.n_active != theirs.latents.n_active).sum()),
        "top_hits_in_common": _in_common(ours.evidence.top, theirs.evidence.top),
        "sampled_hits_in_common": _in_common(ours.evidence.sample, theirs.evidence.sample),
        "neighbours_in_common": float((near.index == near_there.index).double().mean()),
        "baselines_differ_by": _relative(_baselines(there, pieces), _baselines(sae, pieces)),
        "cross_entropies_differ_by": _relative(_cross_entropies(there), _cross_entropies(sae)),
    }


def _figures(found: Survey) -> dict[str, float]:
    told = summary(found, None, {}, {})
    return {name: told[name] for name in FIGURES}


def _baselines(sae: SparseAutoencoder, pieces: Pieces) -> dict[str, float]:
    """FVU of each, fitted on the first piece and measured on some rows of the second."""
    device = sae.W_enc.device
    training, held_out = (numbers(rows, device) for _, rows in pieces)
    found = baselines(sae, fit([training], len(training), sae.d_sae), held_out[:512], sae.config.k)
    return {name: about["fvu"] for name, about in found.items()}


def _cross_entropies(sae: SparseAutoencoder) -> dict[str, float]:
    """Those of a small model of random weights, in float32."""
    torch.manual_seed(0)
    sizes = {"hidden_size": sae.d_in, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 500}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5)
    device = sae.W_enc.device
    model = LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False).to(device)
    token_ids = torch.randint(0, 500, (4, 64), generator=torch.Generator().manual_seed(0))
    kept = torch.ones_like(token_ids, dtype=torch.bool)
    mean = torch.zeros(sae.d_in, device=device)
    found = splice(model, "model.layers.0", sae, mean, token_ids.to(device), kept.to(device))
    assert found is not None  # it reads what it rebuilds
    told = found.summary()
    return {name: float(told[name] or 0) for name in ("original", "sae", "zero_ablation", "mean_ablation", "kl")}


def _relative(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """The largest difference of two figures of a name, relative to the CPU's."""
    return max(abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-12) for name in theirs)


def _in_common(ours: Hits, theirs: Hits) -> float:
    """Share of all hits that are kept by both."""
    a, b = (set(zip(hits.latent.tolist(), hits.row.tolist(), strict=True)) for hits in (ours, theirs))
    return len(a & b) / len(a | b)


def random_sae(size: Size, device: str) -> SparseAutoencoder:
    """Of random directions, whose encoder is its decoder."""
    directions = torch.randn(size.d_sae, size.d_in, generator=torch.Generator(device).manual_seed(0), device=device)
    W_dec = torch.nn.functional.normalize(directions, dim=1)
    weights = Weights(
        W_enc=W_dec.T.contiguous(),
        b_enc=torch.zeros(size.d_sae, device=device),
        W_dec=W_dec,
        b_dec=torch.zeros(size.d_in, device=device),
    )
    config = SAEConfig(arch="topk", d_in=size.d_in, d_sae=size.d_sae, k=size.k)
    return SparseAutoencoder(config, weights).requires_grad_(requires_grad=False)


def random_pieces(size: Size, device: str) -> Pieces:
    """Rows in bfloat16 whose variance falls as 1 / rank, in main memory as they are stored."""
    generator = torch.Generator(device).manual_seed(1)
    deviation = torch.arange(1, size.d_in + 1, device=device) ** -0.5
    found = []
    for index in range(size.pieces):
        x = torch.randn(size.piece_rows, size.d_in, generator=generator, device=device) * deviation
        first = index * size.piece_rows
        sequence, position = np.divmod(np.arange(first, first + size.piece_rows), CONTEXT)
        place = position.astype(np.int32)
        rows = Rows(as_array(x.bfloat16(), "bfloat16"), place, sequence, place)
        found.append((Piece(index, 0, size.piece_rows, first), rows))
    return found


def numbers(rows: Rows, device: str | torch.device) -> Tensor:
    """The activations on a device, in bfloat16."""
    return from_stored(as_tensor(rows.activation, device), "bfloat16")
