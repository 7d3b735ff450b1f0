"""Sums that add: every number of the summary comes from totals over the whole held-out set, never from averages of batches.

All sums are float64. ``a + b`` of the sums of two sets of rows is the sums of both together, up to rounding, so shards may
be scored anywhere. Variances merge as in Chan, Golub and LeVeque 1979 (Stanford STAN-CS-79-773): the naive
E[x^2] - E[x]^2 cancels, and activations have means many times their spread.
"""

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int64

from tasks.encode.codes import CSRCodes

A = TypeVar("A", bound="Adding")
DENSITY_EDGES: Float64[np.ndarray, "edges"] = np.linspace(-10.0, 0.0, 81)
"""Edges of the density histogram, in log10."""
DENSE_DENSITY = 0.1
"""A latent that fires on a larger share of tokens counts as dense."""
HIGH_NORM_MULTIPLE = 2.0
"""A token counts as of high norm above this multiple of the recorded median norm."""


@dataclass(frozen=True, slots=True)
class Adding:
    """Sums of which every field adds."""

    def __add__(self: A, other: A) -> A:
        return type(self)(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Spread:
    """Number, mean and summed squared distance from the mean of a set of rows."""

    count: int
    mean: Float64[np.ndarray, "d_in"]
    deviation: float
    """Sum over rows of ||x - mean||^2."""

    @staticmethod
    def of(rows: Float64[np.ndarray, "n d_in"]) -> "Spread":
        """The spread of rows; of none, zeros."""
        if not len(rows):
            return Spread(0, np.zeros(rows.shape[1]), 0.0)
        mean = rows.mean(axis=0)
        return Spread(len(rows), mean, float(np.square(rows - mean).sum()))

    def __add__(self, other: "Spread") -> "Spread":
        count = self.count + other.count
        if not count:
            return self
        step = other.mean - self.mean
        between = float(step @ step) * self.count * other.count / count
        return Spread(count, self.mean + step * (other.count / count), self.deviation + other.deviation + between)


@dataclass(frozen=True, slots=True)
class ReconstructionSums(Adding):
    """How well rows x are rebuilt as x_hat."""

    x: Spread
    error: float
    """Sum of ||x - x_hat||^2."""
    cosine: float
    """Sum of cos(x, x_hat), 0 where either is 0."""
    norm_ratio: float
    """Sum of ||x_hat|| / ||x|| over rows with x not 0."""
    x_hat_square: float
    """Sum of ||x_hat||^2."""
    x_dot_x_hat: float
    """Sum of x . x_hat."""

    @staticmethod
    def of(x: Float64[np.ndarray, "n d_in"], x_hat: Float64[np.ndarray, "n d_in"]) -> "ReconstructionSums":
        """The sums of rows and their reconstructions."""
        x_square, hat_square = np.square(x).sum(axis=1), np.square(x_hat).sum(axis=1)
        dot = np.einsum("nd,nd->n", x, x_hat)
        norm, hat_norm = np.sqrt(x_square), np.sqrt(hat_square)
        both = norm * hat_norm
        return ReconstructionSums(
            x=Spread.of(x),
            error=float(np.square(x - x_hat).sum()),
            cosine=float(np.divide(dot, both, out=np.zeros_like(dot), where=both > 0).sum()),
            norm_ratio=float(np.divide(hat_norm, norm, out=np.zeros_like(dot), where=norm > 0).sum()),
            x_hat_square=float(hat_square.sum()),
            x_dot_x_hat=float(dot.sum()),
        )

    @property
    def fvu(self) -> float | None:
        """Fraction of variance unexplained: 0 is perfect, 1 no better than the mean. None where nothing varies."""
        return ratio(self.error, self.x.deviation)

    @property
    def mean_cosine(self) -> float | None:
        """Mean over rows of cos(x, x_hat)."""
        return ratio(self.cosine, float(self.x.count))

    @property
    def shrinkage(self) -> float | None:
        """Mean over rows of ||x_hat|| / ||x||; 1 is none."""
        return ratio(self.norm_ratio, float(self.x.count))

    @property
    def gamma(self) -> float | None:
        """E||x_hat||^2 / E[x . x_hat], 1 where no rescaling would help.

        Source: Rajamanoharan et al. 2024, equation 10, https://arxiv.org/abs/2404.16014
        """
        return ratio(self.x_hat_square, self.x_dot_x_hat)


@dataclass(frozen=True, slots=True)
class LatentSums:
    """How often and how strongly each latent fires, and how many fire per token."""

    n_tokens: int
    n_active: Int64[np.ndarray, "d_sae"]
    """Tokens on which the latent is active."""
    total: Float64[np.ndarray, "d_sae"]
    """Sum of its activations."""
    largest: Float32[np.ndarray, "d_sae"]
    """Its largest activation, 0 where it never fires."""
    tokens_by_l0: Int64[np.ndarray, "d_sae_plus_one"]
    """Tokens with 0, 1, 2, ... active latents."""

    @staticmethod
    def of(codes: CSRCodes, d_sae: int) -> "LatentSums":
        """The sums of some tokens' codes."""
        latents, values = codes.latents.astype(np.int64), codes.values
        largest = np.zeros(d_sae, np.float32)
        np.maximum.at(largest, latents, values)
        return LatentSums(
            n_tokens=len(codes),
            n_active=np.bincount(latents, minlength=d_sae),
            total=np.bincount(latents, weights=values, minlength=d_sae).astype(np.float64),  # of none, numpy gives integers
            largest=largest,
            tokens_by_l0=np.bincount(codes.counts, minlength=d_sae + 1),
        )

    def __add__(self, other: "LatentSums") -> "LatentSums":
        return LatentSums(
            self.n_tokens + other.n_tokens,
            self.n_active + other.n_active,
            self.total + other.total,
            np.maximum(self.largest, other.largest),
            self.tokens_by_l0 + other.tokens_by_l0,
        )

    @property
    def density(self) -> Float64[np.ndarray, "d_sae"]:
        """Share of tokens on which each latent fires."""
        share: Float64[np.ndarray, d_sae] = self.n_active / max(1, self.n_tokens)
        return share

    @property
    def l0(self) -> float:
        """Mean number of active latents per token."""
        return float(self.n_active.sum()) / max(1, self.n_tokens)

    def l0_percentile(self, percent: int) -> int:
        """The smallest number of active latents that at least ``percent`` of tokens do not exceed."""
        reached = np.cumsum(self.tokens_by_l0) >= percent / 100 * self.n_tokens
        return int(np.argmax(reached))

    @property
    def dead_fraction(self) -> float:
        """Share of latents that fire on no token scored."""
        return float(np.mean(self.n_active == 0))

    @property
    def dense_fraction(self) -> float:
        """Share of latents that fire on more than 10% of tokens."""
        return float(np.mean(self.density > DENSE_DENSITY))

    @property
    def density_histogram(self) -> Int64[np.ndarray, "bins"]:
        """Latents by log10(density + 1e-10), over DENSITY_EDGES; those that never fire are in the first bin."""
        logs = np.clip(np.log10(self.density + 1e-10), DENSITY_EDGES[0], DENSITY_EDGES[-1])
        return np.histogram(logs, bins=DENSITY_EDGES)[0].astype(np.int64)


def ratio(numerator: float, denominator: float) -> float | None:
    """The quotient, or None where it is not defined (JSON has no NaN)."""
    return numerator / denominator if denominator else None
