"""Stored activations as torch tensors and back, on any device: the bits that ``tasks.activations.schema`` makes in numpy."""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from tasks.activations.schema import INT8_MAX, SCALE_BYTES, Array, storage_dtype, stored_width

_BITS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def empty_stored(n: int, d_in: int, dtype: str, device: str | torch.device = "cpu") -> Shaped[Tensor, "n width"]:
    """Room for stored rows, as ``to_stored`` makes them."""
    return torch.empty(n, stored_width(d_in, dtype), dtype=_BITS.get(dtype, torch.uint8), device=device)


def as_tensor(rows: Array, device: str | torch.device = "cpu") -> Shaped[Tensor, "n width"]:
    """The stored bits on a device, [n, stored_width]; on the CPU they share the array's memory."""
    bits = rows.view(np.int16) if rows.dtype == np.uint16 else rows  # torch knows few operations on uint16
    return torch.from_numpy(bits).to(device)


def as_array(stored: Shaped[Tensor, "n width"], dtype: str) -> Array:
    """The inverse of ``as_tensor``."""
    bits = stored.view(torch.int16) if stored.dtype == torch.bfloat16 else stored
    return bits.cpu().contiguous().numpy().view(storage_dtype(dtype))


def from_stored(stored: Shaped[Tensor, "n width"], dtype: str) -> Float[Tensor, "n d_in"]:
    """Numbers of stored bits: in the stored precision without a copy, int8 as float32."""
    if dtype != "int8":
        return stored.view(_BITS[dtype])
    # A copy even of a single row, whose stride and place may not suit a float32.
    scale = stored[:, :SCALE_BYTES].clone(memory_format=torch.contiguous_format).view(torch.float32)
    return stored[:, SCALE_BYTES:].view(torch.int8).to(torch.float32).mul_(scale)


def to_stored(activation: Float[Tensor, "n d_in"], dtype: str) -> Shaped[Tensor, "n width"]:
    """Activations as they are stored, rounded to nearest even.

    float16 overflows to infinity above 65,504; the caller must check. Of an int8 row that is not finite, the scale is not.
    """
    if dtype != "int8":
        return activation.to(_BITS[dtype])
    exact = activation.float()
    # By a tensor: CUDA multiplies by the reciprocal of a plain number, which rounds otherwise.
    scale = exact.abs().amax(dim=1, keepdim=True) / exact.new_tensor(INT8_MAX)
    steps = (exact / torch.where(scale > 0, scale, 1)).round_().nan_to_num_().clamp_(-INT8_MAX, INT8_MAX)
    return torch.cat([scale.view(torch.uint8), steps.to(torch.int8).view(torch.uint8)], dim=1)
