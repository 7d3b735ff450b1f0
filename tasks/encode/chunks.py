"""Stored rows through a finished SAE, some thousand at a time: the one way in which scoring and encoding run it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from tasks.activations.schema import Array, to_float32
from tasks.encode.codes import CSRCodes
from tasks.sae import SparseAutoencoder

# glibc maps and unmaps blocks above 32 MiB at every use, which costs up to 3x: 6M float32 stay below.
_CHUNK_NUMBERS = 6_000_000
_CHUNK_ROWS = 2_048


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows that follow each other, and their codes."""

    start: int
    """The number of the first of them among the rows that were given."""
    x: Float32[np.ndarray, "n d_in"]
    codes: CSRCodes
    decode: Callable[[], Float[Tensor, "n d_out"]]
    """Rebuilds them on the SAE's device, for ``x_hat``."""

    @property
    def stop(self) -> int:
        """The number behind the last of them."""
        return self.start + len(self.x)

    @torch.inference_mode()
    def x_hat(self) -> Float32[np.ndarray, "n d_out"]:
        """What is rebuilt from the codes; where an architecture keeps no fixed k, this takes as long as encoding."""
        return self.decode().cpu().numpy()


def encoded(sae: SparseAutoencoder, blocks: Iterable[Array], dtype: str) -> Iterator[Chunk]:
    """Encode stored rows, in float32, on the device that holds the SAE.

    A chunk has ``chunk_rows(d_sae)`` rows but for the last, wherever the blocks end. A product's last bits can change with
    the number of rows, so codes are equal to the bit only in equal chunks: whoever begins at the same row gets the same.

    Args:
        sae: a finished SAE.
        blocks: the rows, of which those of a block follow those of the block before it.
        dtype: in which they are stored.
    """
    start = 0
    for rows in regrouped(blocks, chunk_rows(sae.d_sae)):
        # A copy in torch's own alignment, on which equal rows give equal bits in every process.
        x = torch.tensor(to_float32(rows, dtype))
        yield Chunk(start, x.numpy(), *_encoded(sae, x.to(sae.W_enc.device)))
        start += len(rows)


def regrouped(blocks: Iterable[Array], size: int) -> Iterator[Array]:
    """The rows of all blocks, ``size`` at a time."""
    held: list[Array] = []
    missing = size
    for block in blocks:
        rest = block
        while len(rest) >= missing:
            yield _together([*held, rest[:missing]])
            rest, held, missing = rest[missing:], [], size
        if len(rest):
            held.append(rest)
            missing -= len(rest)
    if held:
        yield _together(held)


def chunk_rows(width: int) -> int:
    """Rows of ``width`` float32 that are worked on at a time."""
    return max(16, min(_CHUNK_ROWS, _CHUNK_NUMBERS // width))


def in_chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
    """``size`` rows at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


@torch.inference_mode()
def reconstruct(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    """What is rebuilt [n, d_out] from raw activations [n, d_in], in float32, without ever holding [n, d_sae] for topk."""
    if sae.keeps_k:
        return sae.decode_sparse(*sae.encode_sparse(x), x)
    return sae.forward(x)


@torch.inference_mode()
def _encoded(sae: SparseAutoencoder, x: Tensor) -> tuple[CSRCodes, Callable[[], Tensor]]:
    """The codes of some rows, and what decodes them."""
    if sae.keeps_k:
        values, latents = sae.encode_sparse(x)
        return CSRCodes.of_kept(values, latents), lambda: sae.decode_sparse(values, latents, x)
    dense = sae.encode(x)
    return CSRCodes.of_dense(dense), lambda: sae.decode(dense, x)


def _together(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
