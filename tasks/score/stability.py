"""How much of a dictionary another seed finds again: latents matched one to one between two SAEs of equal sizes.

Source: https://arxiv.org/abs/2501.16615. A latent is shared if the best matching of decoder rows and the best matching of
encoder columns (Hungarian algorithm) give it the same partner, with both cosines above ``SHARED``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tasks.encode.cosines import cosines, largest_cosines
from tasks.sae import SparseAutoencoder

SHARED = 0.7
"""Cosine above which matched latents count as the same."""
MOST_LATENTS = 16_384
"""More are not matched: 4,608 take 2 s and .25 GiB, and these grow with the cube and the square of the number."""


@dataclass(frozen=True, slots=True)
class Stability:
    """What two SAEs have in common."""

    shared: float | None
    """Share of latents that are shared; None: too many to be matched."""
    mmcs: float
    """Mean over the latents of both SAEs of the largest cosine with any decoder row of the other."""


@torch.inference_mode()
def stability(a: SparseAutoencoder, b: SparseAutoencoder) -> Stability:
    """Compare two SAEs with the same number of latents, dead ones included; the order of the two does not matter.

    Memory: two matrices of d_sae squared float32 numbers; with more than ``MOST_LATENTS``, blocks of one.

    Raises:
        ValueError: they have different numbers of latents, or are for activations of different widths.
    """
    if (a.d_in, a.d_sae, a.d_out) != (b.d_in, b.d_sae, b.d_out):
        raise ValueError(f"[{a.d_in}, {a.d_sae}, {a.d_out}] and [{b.d_in}, {b.d_sae}, {b.d_out}] cannot be matched.")
    if a.d_sae > MOST_LATENTS:
        return Stability(None, _mean_of_maxima(*largest_cosines(a.W_dec, b.W_dec)))
    decoder = cosines(a.W_dec, b.W_dec)
    mmcs = _mean_of_maxima(decoder.max(dim=1).values, decoder.max(dim=0).values)
    return Stability(shared_fraction(decoder.cpu(), cosines(a.W_enc.T, b.W_enc.T).cpu()), mmcs)


def shared_fraction(decoder: Float[Tensor, "n n"], encoder: Float[Tensor, "n n"]) -> float:
    """The share of rows whose partners agree in both matchings, with cosines above ``SHARED`` in both."""
    by_decoder, by_encoder = partners(decoder), partners(encoder)
    every = np.arange(len(by_decoder))
    alike = (decoder.numpy()[every, by_decoder] > SHARED) & (encoder.numpy()[every, by_encoder] > SHARED)
    return float(((by_decoder == by_encoder) & alike).mean())


def partners(cosines: Float[Tensor, "n n"]) -> Int[np.ndarray, "n"]:
    """For each row the column that it gets, each column being given once, so that the sum of cosines is largest."""
    _, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return np.asarray(columns)


def _mean_of_maxima(of_a: Float[Tensor, "n"], of_b: Float[Tensor, "n"]) -> float:
    return float(of_a.double().mean() + of_b.double().mean()) / 2
