"""One look of an SAE at the frozen rows, and what two SAEs' decoders have in common."""

import numpy as np
import torch
from torch import Tensor

from tasks.activations.loader.prefetch import ahead
from tasks.activations.schema import to_float32
from tasks.encode.chunks import chunk_rows, encoded, in_chunks
from tasks.errors import InputError
from tasks.gates.rows import GateRows
from tasks.gates.sums import BlockSums
from tasks.progress import Listener, Progress
from tasks.sae import SparseAutoencoder
from tasks.sae.architectures.registry import architecture

SHARED_COSINE = 0.7
"""Of decoder rows that are each other's nearest: from here on they are the same latent, as in ``tasks.score.stability``."""


def measure(sae: SparseAutoencoder, rows: GateRows, listener: Listener) -> BlockSums:
    """Encode and rebuild all rows.

    Args:
        sae: on the device on which it is to work.
        rows: the same for both SAEs.
        listener: is told how far it is.

    Raises:
        InputError: the SAE is of another width than the rows.
    """
    if (sae.d_in, sae.d_out) != (rows.d_in, len(rows.mean)):
        raise InputError(
            f"{sae} has d_in {sae.d_in} and d_out {sae.d_out}, but {rows.activations} has {rows.d_in} and {len(rows.mean)}: "
            "give activations of the hooks that it was trained on."
        )
    n = int(rows.blocks[-1]) + 1
    found = BlockSums(
        rows=np.zeros(n, np.int64),
        x=np.zeros((n, len(rows.mean))),
        x_square=np.zeros(n),
        error=np.zeros(n),
        active=np.zeros(n, np.int64),
        fired=np.zeros((n, sae.d_sae), np.bool_),
    )
    done, dtype = 0, rows.split.dtype
    for stored in ahead((rows.split.shard(piece.shard, piece.start, piece.stop) for piece in rows.pieces), 1):
        for chunk in encoded(sae, [stored.activation[:, rows.reads]], dtype):
            part = slice(chunk.start, chunk.stop)
            target = to_float32(stored.activation[part, rows.rebuilds], dtype).astype(np.float64)
            error = np.square((target - chunk.x_hat()) * rows.scale).sum(axis=1)
            x, block = (target - rows.mean) * rows.scale, rows.block_of(stored.sequence[part])
            found.x[:] += (np.arange(n)[:, None] == block).astype(np.float64) @ x
            found.rows[:] += np.bincount(block, minlength=n)
            found.x_square[:] += np.bincount(block, np.square(x).sum(axis=1), n)
            found.error[:] += np.bincount(block, error, n)
            np.add.at(found.active, block, chunk.codes.counts)
            found.fired[block[chunk.codes.rows], chunk.codes.latents] = True
        done += len(stored.sequence)
        listener(Progress("gate", done, rows.n_rows, unit="rows"))
    if not found.x_square.sum() > 0:
        raise InputError(f"The held-out rows of {rows.activations} are all the same: nothing of them can be explained.")
    return found


def wanted_l0(sae: SparseAutoencoder, found: BlockSums) -> float:
    """How many latents an SAE is to have active on a row: its k where training kept or looked for it, else what it has."""
    kind, config = architecture(sae.config.arch), sae.config
    keeps = kind.description.k in ("row", "batch")
    sought = kind.steers(config) and sae.belonging.imported_from is None
    return float(config.k) if keeps or sought else max(found.l0, 1e-6)


@torch.inference_mode()
def shared_share(champion: SparseAutoencoder, challenger: SparseAutoencoder, fires: Tensor) -> float:
    """Share of the champion's latents that fire which are mutually nearest with one of the challenger's, by decoder rows.

    Args:
        champion: of two SAEs that rebuild rows of equal width.
        challenger: the other.
        fires: bool [d_sae], of the champion.
    """
    a, b = (torch.nn.functional.normalize(sae.W_dec).cpu() for sae in (champion, challenger))
    there, cosine = _nearest(a, b)
    back, _ = _nearest(b, a)
    mutual = (back[there] == torch.arange(len(a))) & (cosine >= SHARED_COSINE)
    return float(mutual[fires].float().mean()) if bool(fires.any()) else 0.0


def _nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of each unit row of ``a`` the row of ``b`` with the largest cosine, and that cosine; blocks of all at a time."""
    found = [(part @ b.T).max(dim=1) for part in in_chunks(a, chunk_rows(len(b)))]
    return torch.cat([block.indices for block in found]), torch.cat([block.values for block in found])
