"""Activations through the SAE, chunk by chunk, as the few latents that fire on each row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from tasks.sae import SparseAutoencoder
from tasks.store.schema import Array, to_float32

# glibc maps and unmaps blocks above 32 MiB at every use, which costs up to 3x: 6M float32 stay below.
_CHUNK_NUMBERS = 6_000_000
_CHUNK_ROWS = 2_048


@dataclass(frozen=True, slots=True)
class Codes:
    """The positive activations of some rows: one entry for each (row, latent) above 0, ordered by row."""

    row: Int64[np.ndarray, "m"]
    latent: Int64[np.ndarray, "m"]
    value: Float32[np.ndarray, "m"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows [start, start + n) of what was given, their codes (whose rows count from ``start``) and what is rebuilt."""

    start: int
    x: Float32[np.ndarray, "n d_in"]
    codes: Codes
    x_hat: Float32[np.ndarray, "n d_out"]


def chunk_rows(width: int) -> int:
    """Rows of ``width`` float32 that are worked on at a time."""
    return max(16, min(_CHUNK_ROWS, _CHUNK_NUMBERS // width))


def in_chunks(rows: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """``size`` rows at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def chunks(sae: SparseAutoencoder, activation: Array, dtype: str) -> Iterator[Chunk]:
    """Encode and decode stored rows. Equal rows give equal bits every time, so a second look sees the same codes."""
    for start, x in _parts(sae, activation, dtype):
        codes, x_hat = encode_decode(sae, x)
        yield Chunk(start, x, codes, x_hat)


def codes_of(sae: SparseAutoencoder, activation: Array, dtype: str) -> Iterator[tuple[int, int, Codes]]:
    """The same chunks' starts, their numbers of rows and codes; decoding is half of the time where codes are not topk's."""
    for start, x in _parts(sae, activation, dtype):
        yield start, len(x), _encoded(sae, torch.tensor(x))[0]


def _parts(sae: SparseAutoencoder, activation: Array, dtype: str) -> Iterator[tuple[int, Float32[np.ndarray, "n d_in"]]]:
    size = chunk_rows(sae.d_sae)
    return ((start, to_float32(activation[start : start + size], dtype)) for start in range(0, len(activation), size))


@torch.inference_mode()
def encode_decode(sae: SparseAutoencoder, x: Float32[np.ndarray, "n d_in"]) -> tuple[Codes, Float32[np.ndarray, "n d_out"]]:
    """Codes of raw activations, and what is rebuilt from them."""
    codes, decode = _encoded(sae, torch.tensor(x))
    return codes, decode().numpy()


@torch.inference_mode()
def _encoded(sae: SparseAutoencoder, rows: torch.Tensor) -> tuple[Codes, Callable[[], torch.Tensor]]:
    """The codes of some rows, and what decodes them."""
    if sae.keeps_k:
        values, indices = sae.encode_sparse(rows)
        kept = values > 0
        row = kept.nonzero()[:, 0]
        codes = Codes(row.numpy(), indices[kept].numpy(), values[kept].numpy())
        return codes, lambda: sae.decode_sparse(values, indices, rows)
    dense = sae.encode(rows)
    row, latent = (dense > 0).nonzero(as_tuple=True)
    return Codes(row.numpy(), latent.numpy(), dense[row, latent].numpy()), lambda: sae.decode(dense, rows)


@torch.inference_mode()
def reconstruct(sae: SparseAutoencoder, x: torch.Tensor) -> torch.Tensor:
    """What is rebuilt [n, d_out] from raw activations [n, d_in], in float32, without ever holding [n, d_sae] for topk."""
    if sae.keeps_k:
        return sae.decode_sparse(*sae.encode_sparse(x), x)
    return sae.forward(x)
