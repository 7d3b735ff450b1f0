"""When the latents of an SAE fire over some rows, in units in which products of two latents are their correlations."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from scipy.sparse import csr_matrix

from tasks.encode.codes import CSRCodes

Csr = Any
"""A ``scipy.sparse.csr_matrix`` of float32, for which scipy has no types."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The codes f of all latents over n rows, each divided by the root of its summed squared deviation from its mean.

    So Pearson's correlation of two latents is ``by_latent[i] . by_latent[j] - shift[i] * shift[j]``: a sum over the rows on
    which both fire, whose cost is their number. Memory: 16 bytes an active latent.
    """

    by_row: Csr
    """[n, d_sae]"""
    by_latent: Csr
    """[d_sae, n]"""
    shift: Float32[np.ndarray, "d_sae"]
    """Sum of the divided codes over the root of n; 0 for a latent that never fires, as all else of it."""
    n_active: Int64[np.ndarray, "d_sae"]
    """Rows on which each latent fires."""

    @staticmethod
    def of(codes: CSRCodes, d_sae: int) -> "Activity":
        """From the codes of n rows."""
        n, values = len(codes), codes.values.astype(np.float64)
        total = np.bincount(codes.latents, weights=values, minlength=d_sae)
        square = np.bincount(codes.latents, weights=values**2, minlength=d_sae)
        deviation = np.sqrt(np.maximum(square - total**2 / max(1, n), 0))
        unit = np.divide(1.0, deviation, out=np.zeros(d_sae), where=deviation > 0)
        divided = (values * unit[codes.latents]).astype(np.float32)
        by_row = csr_matrix((divided, codes.latents, codes.offsets), shape=(n, d_sae))
        shift = (total * unit / max(1, n) ** 0.5).astype(np.float32)
        return Activity(by_row, by_row.T.tocsr(), shift, np.bincount(codes.latents, minlength=d_sae).astype(np.int64))

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.by_row.shape[0])

    @property
    def d_sae(self) -> int:
        """The number of latents."""
        return len(self.shift)
