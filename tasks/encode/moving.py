"""Stored rows on the device that works on them, as float32 numbers."""

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from tasks.activations.schema import Array, to_float32
from tasks.activations.tensors import as_tensor, from_stored


def on_device(rows: Array, dtype: str, device: torch.device) -> Float32[Tensor, "n d_in"]:
    """Stored rows as numbers on a device.

    Args:
        rows: [n, stored_width], as they are stored.
        dtype: in which they are stored.
        device: where they go. To a GPU they go as they are stored, which in bfloat16 is half the bytes.
    """
    if device.type == "cpu":
        # A copy in torch's own alignment, on which equal rows give equal bits in every process.
        return torch.tensor(to_float32(rows, dtype))
    return from_stored(staged(rows, pinned=device.type == "cuda").to(device, non_blocking=True), dtype).float()


def staged(rows: Array, pinned: bool) -> Shaped[Tensor, "n width"]:
    """A copy of the stored bits; from pinned memory, which torch keeps for the next ones, a GPU takes them by itself."""
    bits = rows.view(np.int16) if rows.dtype == np.uint16 else rows
    found = torch.empty(bits.shape, dtype=as_tensor(bits[:0].copy()).dtype, pin_memory=pinned)
    np.copyto(found.numpy(), bits)
    return found
