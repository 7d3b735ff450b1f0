"""How well an SAE found the features that made its data, where these are known because the data are synthetic.

Each latent is paired with one feature, no feature with two latents, so that the cosines of decoder rows and true
directions are largest in sum. Where there are fewer latents than features, as in every real model, only features that
got a latent count; where there are more, only latents that got a feature.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy.optimize import linear_sum_assignment

from tasks.encode.codes import ACTIVE_ABOVE
from tasks.score.stats import Adding, ReconstructionSums


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a latent and a feature."""

    latents: Int64[np.ndarray, "m"]
    features: Int64[np.ndarray, "m"]
    cosines: Float64[np.ndarray, "m"]
    """Absolute cosine of decoder row and true direction; 0 where either is 0."""


def match(W_dec: Float[np.ndarray, "d_sae d_in"], directions: Float[np.ndarray, "n_features d_in"]) -> Pairs:
    """The one-to-one pairs with the largest sum of absolute cosines (Hungarian matching).

    The mean of the cosines is the MCC: https://arxiv.org/abs/2505.20254
    """
    cosines = _cosines(W_dec, directions)
    latents, features = linear_sum_assignment(cosines, maximize=True)
    return Pairs(latents, features, cosines[latents, features])


def nearest(W_dec: Float[np.ndarray, "d_sae d_in"], directions: Float[np.ndarray, "n_features d_in"]) -> Pairs:
    """Each latent with the feature nearest to it, which several latents may share: what SAELens pairs."""
    cosines = _cosines(W_dec, directions)
    return Pairs(np.arange(len(W_dec)), cosines.argmax(axis=1), cosines.max(axis=1))


@dataclass(frozen=True, slots=True)
class FiringSums(Adding):
    """On how many rows both of a pair fire, its latent does, and its feature does; sums over rows add."""

    both: Int64[np.ndarray, "m"]
    latent: Int64[np.ndarray, "m"]
    feature: Int64[np.ndarray, "m"]

    @staticmethod
    def of(active: Bool[np.ndarray, "n d_sae"], fires: Bool[np.ndarray, "n n_features"], pairs: Pairs) -> "FiringSums":
        """The sums of rows on which these latents are active and these features fire."""
        found, true = active[:, pairs.latents], fires[:, pairs.features]
        return FiringSums((found & true).sum(axis=0), found.sum(axis=0), true.sum(axis=0))

    @property
    def f1(self) -> Float64[np.ndarray, "m"]:
        """Harmonic mean of precision and recall of each pair's latent as a detector of its feature; 0 where undefined."""
        total = self.latent + self.feature
        f1 = np.zeros(len(total))
        np.divide(2.0 * self.both, total, out=f1, where=total > 0)
        return f1


class TruthRows(NamedTuple):
    """Held-out rows, what an SAE made of them, and what made them."""

    x: Float32[np.ndarray, "n d_in"]
    codes: Float32[np.ndarray, "n d_sae"]
    x_hat: Float32[np.ndarray, "n d_in"]
    fires: Bool[np.ndarray, "n n_features"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """How well the features were found; each number lies in 0..1, but for ``l0``."""

    mcc: float
    """Mean absolute cosine of matched pairs."""
    f1: float
    """Mean over matched pairs of the latent's F1 as a detector of its feature."""
    f1_nearest: float
    """The same with each latent paired with the feature nearest to it, as SAELens reports it."""
    uniqueness: float
    """Different features that are nearest to some latent, over latents."""
    explained_variance: float | None
    """1 - FVU; None where the rows do not vary."""
    dead: float
    """Share of latents that fire on no row."""
    l0: float
    """Mean number of active latents per row."""


def recovery(
    W_dec: Float[np.ndarray, "d_sae d_in"], directions: Float[np.ndarray, "n_features d_in"], pieces: Iterable[TruthRows]
) -> Recovery:
    """Score a dictionary and its codes, given piece by piece, of which there must be one at least."""
    matched, closest = match(W_dec, directions), nearest(W_dec, directions)
    sums = [_sums(rows, matched, closest) for rows in pieces]
    by_match, by_nearest, rebuilt = (sum(parts[1:], start=parts[0]) for parts in zip(*sums, strict=True))
    fvu = rebuilt.fvu
    return Recovery(
        mcc=float(matched.cosines.mean()),
        f1=float(by_match.f1.mean()),
        f1_nearest=float(by_nearest.f1.mean()),
        uniqueness=len(np.unique(closest.features)) / len(W_dec),
        explained_variance=None if fvu is None else 1 - fvu,
        dead=float((by_nearest.latent == 0).mean()),
        l0=int(by_nearest.latent.sum()) / rebuilt.x.count,
    )


def _sums(rows: TruthRows, matched: Pairs, closest: Pairs) -> tuple[FiringSums, FiringSums, ReconstructionSums]:
    active = rows.codes > ACTIVE_ABOVE
    rebuilt = ReconstructionSums.of(rows.x.astype(np.float64), rows.x_hat.astype(np.float64))
    return FiringSums.of(active, rows.fires, matched), FiringSums.of(active, rows.fires, closest), rebuilt


def _cosines(a: Float[np.ndarray, "m d_in"], b: Float[np.ndarray, "n d_in"]) -> Float64[np.ndarray, "m n"]:
    """Absolute cosines of all pairs of rows; 0 where a row is 0."""
    a_unit, b_unit = (_unit(rows.astype(np.float64)) for rows in (a, b))
    cosines: Float64[np.ndarray, "m n"] = np.abs(a_unit @ b_unit.T)
    return cosines


def _unit(rows: Float64[np.ndarray, "n d_in"]) -> Float64[np.ndarray, "n d_in"]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Float64[np.ndarray, "n d_in"] = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit
