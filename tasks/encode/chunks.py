"""Stored rows through a finished SAE, some thousand at a time: the one way in which scoring and encoding run it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from tasks.activations.schema import Array
from tasks.encode.codes import CSRCodes, TensorCodes
from tasks.encode.halves import RowsAtOnce
from tasks.encode.moving import on_device
from tasks.sae import SparseAutoencoder

# glibc maps and unmaps blocks above 32 MiB at every use, which costs up to 3x: 6M float32 stay below.
_CHUNK_NUMBERS = 6_000_000
_CHUNK_ROWS = 2_048
# On a GPU 512 MiB of float32: 2,048 rows of 65,536 latents. A guess: their product outlasts some hundred kernel launches.
_NUMBERS_ON_A_GPU = 2**27
_ROWS_ON_A_GPU = 16_384
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class TensorChunk:
    """Some rows that follow each other, and their codes, on the SAE's device."""

    start: int
    """The number of the first of them among the rows that were given."""
    x: Float32[Tensor, "n d_in"]
    codes: TensorCodes
    decode: Callable[[], Float[Tensor, "n d_out"]]
    """Rebuilds the rows from the codes; where an architecture keeps no fixed k, this takes as long as encoding."""

    @property
    def stop(self) -> int:
        """The number behind the last of them."""
        return self.start + len(self.x)

    @torch.inference_mode()
    def x_hat(self) -> Float32[Tensor, "n d_out"]:
        """What is rebuilt from the codes."""
        return self.decode()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows that follow each other, and their codes, in main memory."""

    source: TensorChunk
    codes: CSRCodes

    @property
    def start(self) -> int:
        """The number of the first of them among the rows that were given."""
        return self.source.start

    @property
    def stop(self) -> int:
        """The number behind the last of them."""
        return self.source.stop

    @property
    def x(self) -> Float32[np.ndarray, "n d_in"]:
        """The rows."""
        return self.source.x.cpu().numpy()

    def x_hat(self) -> Float32[np.ndarray, "n d_out"]:
        """What is rebuilt from the codes; where an architecture keeps no fixed k, this takes as long as encoding."""
        return self.source.x_hat().cpu().numpy()


def encoded(sae: SparseAutoencoder, blocks: Iterable[Array], dtype: str) -> Iterator[Chunk]:
    """Encode stored rows on the device that holds the SAE, and give what comes of it in main memory.

    Args:
        sae: a finished SAE.
        blocks: the rows, of which those of a block follow those of the block before it.
        dtype: in which they are stored.

    Raises:
        InputError: there is no memory to encode a single row.
    """
    return (Chunk(chunk, chunk.codes.in_main_memory()) for chunk in encoded_on_device(sae, blocks, dtype))


def encoded_on_device(sae: SparseAutoencoder, blocks: Iterable[Array], dtype: str) -> Iterator[TensorChunk]:
    """Encode stored rows, in float32, on the device that holds the SAE.

    A chunk has ``chunk_rows(d_sae, device)`` rows but for the last, wherever the blocks end, and half as many where memory
    ends. A product's last bits can change with the number of rows, so codes are equal to the bit only in equal chunks:
    whoever begins at the same row gets the same.

    Args:
        sae: a finished SAE.
        blocks: the rows, of which those of a block follow those of the block before it.
        dtype: in which they are stored.

    Raises:
        InputError: there is no memory to encode a single row.
    """
    start, device, at_once = 0, sae.W_enc.device, RowsAtOnce()
    for rows in regrouped(blocks, chunk_rows(sae.d_sae, device)):
        for x, (codes, decode) in at_once.parts(on_device(rows, dtype, device), partial(_encoded, sae)):
            yield TensorChunk(start, x, codes, decode)
            start += len(x)


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


def chunk_rows(width: int, device: torch.device = _CPU) -> int:
    """Rows of ``width`` float32 that are worked on at a time."""
    if device.type == "cpu":
        return max(16, min(_CHUNK_ROWS, _CHUNK_NUMBERS // width))
    return max(16, min(_ROWS_ON_A_GPU, _NUMBERS_ON_A_GPU // width))


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
def _encoded(sae: SparseAutoencoder, x: Tensor) -> tuple[TensorCodes, Callable[[], Tensor]]:
    """The codes of some rows, and what decodes them."""
    if sae.keeps_k:
        values, latents = sae.encode_sparse(x)
        return TensorCodes.of_kept(values, latents), lambda: sae.decode_sparse(values, latents, x)
    dense = sae.encode(x)
    return TensorCodes.of_dense(dense), lambda: sae.decode(dense, x)


def _together(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
