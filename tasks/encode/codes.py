"""The sparse codes of a finished SAE: for each row the latents that are active on it, and how much."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32, Int64
from torch import Tensor

ACTIVE_ABOVE = 0.0
"""A latent is active on a row where its code is above this. Everything that counts or lists active latents compares with it.

Architectures rectify, so that their other codes are 0. Only an imported SAE with thresholds below 0 has negative ones.
"""


@dataclass(frozen=True, slots=True)
class TensorCodes:
    """The active latents of n rows on the SAE's device: row after row, in ascending order within each."""

    counts: Int64[Tensor, "n"]
    """How many latents are active on each row."""
    latents: Int64[Tensor, "m"]
    values: Float32[Tensor, "m"]

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def rows(self) -> Int64[Tensor, "m"]:
        """The row of each entry."""
        places = torch.arange(len(self), device=self.counts.device)
        return places.repeat_interleave(self.counts, output_size=len(self.latents))

    @staticmethod
    def of_dense(codes: Float[Tensor, "n d_sae"]) -> "TensorCodes":
        """From codes with a column for each latent."""
        row, latents = (codes > ACTIVE_ABOVE).nonzero(as_tuple=True)
        return TensorCodes(torch.bincount(row, minlength=len(codes)), latents, codes[row, latents].float())

    @staticmethod
    def of_kept(values: Float[Tensor, "n k"], latents: Int[Tensor, "n k"]) -> "TensorCodes":
        """From k latents of each row in any order, as ``encode_sparse`` gives them, of which some are not active."""
        latents, order = latents.sort(dim=1)
        values = values.gather(1, order)
        active = values > ACTIVE_ABOVE
        return TensorCodes(active.sum(dim=1), latents[active], values[active].float())

    def in_main_memory(self) -> "CSRCodes":
        """The same codes as numpy arrays."""
        return CSRCodes(_offsets(self.counts.cpu().numpy()), self.latents.int().cpu().numpy(), self.values.cpu().numpy())


@dataclass(frozen=True, slots=True)
class CSRCodes:
    """The active latents of n rows as compressed sparse rows (CSR): row after row, in ascending order within each.

    Memory: 8 bytes an active latent. The arrays lie in the machine's memory, whatever device the SAE is on.
    """

    offsets: Int64[np.ndarray, "n_plus_1"]
    """The entries of row r are ``offsets[r]:offsets[r + 1]``."""
    latents: Int32[np.ndarray, "m"]
    values: Float32[np.ndarray, "m"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Int64[np.ndarray, "n"]:
        """How many latents are active on each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> Int64[np.ndarray, "m"]:
        """The row of each entry."""
        return np.repeat(np.arange(len(self)), self.counts)

    @staticmethod
    def joined(parts: "Sequence[CSRCodes]") -> "CSRCodes":
        """The codes of rows that follow each other."""
        if not parts:
            return CSRCodes(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        return CSRCodes(
            _offsets(np.concatenate([part.counts for part in parts])),
            np.concatenate([part.latents for part in parts]),
            np.concatenate([part.values for part in parts]),
        )


def _offsets(counts: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n_plus_1"]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
