"""The trainable parameters as views into one flat tensor, so that optimizer, all-reduce and checkpoint see one object."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Parameters:
    """Weights of one SAE (or their gradients) during training, in the space of scaled activations.

    The encoder is held transposed against the saved ``W_enc``: a latent's weights, and so the rows that its gradient
    touches, lie together.
    """

    flat: Float[Tensor, "size"]
    encoder: Float[Tensor, "d_sae d_in"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_enc: Float[Tensor, "d_sae"]
    b_dec: Float[Tensor, "d_in"]


def size(d_in: int, d_sae: int) -> int:
    """Numbers in all parameters together."""
    return 2 * d_in * d_sae + d_sae + d_in


def view(flat: Float[Tensor, "size"], d_in: int, d_sae: int) -> Parameters:
    """Cut a flat tensor into parameters that share its memory."""
    encoder, W_dec, b_enc, b_dec = torch.split(flat, [d_in * d_sae, d_in * d_sae, d_sae, d_in])
    return Parameters(flat, encoder.view(d_sae, d_in), W_dec.view(d_sae, d_in), b_enc, b_dec)


def zeros(d_in: int, d_sae: int, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Parameters:
    """Parameters that are all 0."""
    return view(torch.zeros(size(d_in, d_sae), dtype=dtype, device=device), d_in, d_sae)
