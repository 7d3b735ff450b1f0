"""The sparse step: selection, decoding, and gradients that touch active latents only."""

from collections.abc import Sequence

from torch import Tensor

from tasks.sae.entries import AdamStep, ByLatent, Entries, Part, Rows
from tasks.sae.reference import TransposedProducts, decode_rows, select_above, select_columns, select_top_k

__all__ = [
    "AdamStep",
    "ByLatent",
    "Entries",
    "Part",
    "Rows",
    "by_latent",
    "decode_rows",
    "select_above",
    "select_columns",
    "select_top_k",
]


def by_latent(parts: Sequence[Part], d_sae: int, radial: Tensor | None = None) -> ByLatent:
    """Group the entries of all parts by latent; ``radial [d_sae]`` adds radial[i] * W_dec[i] to dW_dec[i]."""
    return TransposedProducts(parts, d_sae, radial)
