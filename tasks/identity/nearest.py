"""Each latent's most alike latent of the other SAE."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from tasks.identity.comparison import Comparison


@dataclass(frozen=True, slots=True)
class Nearest:
    """For each latent the one of the other SAE with the highest score, the first of several."""

    of_a: Int64[np.ndarray, "d_a"]
    of_b: Int64[np.ndarray, "d_b"]
    C_d: Float32[np.ndarray, "d_a"]
    """Each A latent's highest decoder cosine with any latent of B."""


def nearest(comparison: Comparison) -> Nearest:
    """Look at all pairs, a block at a time."""
    every_a, every_b = np.arange(comparison.a.activity.d_sae), np.arange(comparison.b.activity.d_sae)
    of_a, C_d = np.zeros(len(every_a), np.int64), np.zeros(len(every_a), np.float32)
    of_b, highest = np.zeros(len(every_b), np.int64), np.full(len(every_b), -np.inf, np.float32)
    for block in comparison.blocks(every_a, every_b):
        score, rows = torch.from_numpy(block.score), slice(block.start, block.start + len(block.score))
        of_a[rows], C_d[rows] = score.max(dim=1).indices.numpy(), block.C_d.max(axis=1)
        most, place = (found.numpy() for found in score.max(dim=0))
        of_b = np.where(most > highest, block.start + place, of_b)
        highest = np.maximum(most, highest)
    return Nearest(of_a, of_b, C_d)
