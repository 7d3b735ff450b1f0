"""Which latents of A and B are one, and what became of the others."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from tasks.identity.assign import assign
from tasks.identity.classes import OF_A, OF_B, same
from tasks.identity.comparison import Comparison, PairEvidence
from tasks.identity.composition import compositions
from tasks.identity.nearest import nearest
from tasks.identity.null import null_cosine

Parts = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Fates:
    """What is known of each latent of one of the two SAEs."""

    kind: np.ndarray
    """[d_sae] One of ``OF_A`` or ``OF_B``, as text."""
    partner: Int64[np.ndarray, "d_sae"]
    """The latent of the other SAE that is the same or drifted; -1: none."""
    nearest: Int64[np.ndarray, "d_sae"]
    """The partner, or the latent of the other SAE with the highest score."""
    evidence: PairEvidence
    """Of each latent and its ``nearest``."""
    n_active: Int64[np.ndarray, "d_sae"]
    """Rows on which it fires."""
    relatives: Parts
    """Of a latent that was split or merged, those of the other SAE that it came to or from."""

    def count(self, kind: str) -> int:
        """How many latents came to, or from, this."""
        return int(np.count_nonzero(self.kind == kind))

    def share(self, kind: str) -> float:
        """The same as a share of all latents of this SAE, silent ones included."""
        return self.count(kind) / len(self.kind)


@dataclass(frozen=True, slots=True)
class Matching:
    """How the latents of A and B belong together."""

    a: Fates
    b: Fates
    rows: int
    """Over which codes were compared."""
    cosine: float
    """Median over A's latents of the best decoder cosine in B."""
    null: float
    """The same in a dictionary that has nothing to do with A."""

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many latents of A and of B each class has; together all."""
        return {
            "a": {kind: self.a.count(kind) for kind in OF_A},
            "b": {kind: self.b.count(kind) for kind in OF_B},
        }

    @property
    def shares(self) -> dict[str, float]:
        """Of A's latents for same, drifted, split and died, and of B's for merged and born."""
        of_a = {kind: self.a.share(kind) for kind in ("same", "drifted", "split", "died")}
        return of_a | {kind: self.b.share(kind) for kind in ("merged", "born")}


def reordered(found: Matching, order: Int64[np.ndarray, "d_b"]) -> Matching:
    """The same of a B whose latents stand in another order: ``order[i]`` is the latent that comes to stand at i."""
    place = np.argsort(order)

    def moved(b: np.ndarray) -> np.ndarray:
        return np.where(b >= 0, place[b], -1)

    of_b = {latent: tuple(place[list(others)].tolist()) for latent, others in found.a.relatives.items()}
    a = replace(found.a, partner=moved(found.a.partner), nearest=moved(found.a.nearest), relatives=of_b)
    b = Fates(
        kind=found.b.kind[order],
        partner=found.b.partner[order],
        nearest=found.b.nearest[order],
        evidence=found.b.evidence[order],
        n_active=found.b.n_active[order],
        relatives={int(place[latent]): others for latent, others in found.b.relatives.items()},
    )
    return replace(found, a=a, b=b)


def matching(comparison: Comparison) -> Matching:
    """Match the latents of two SAEs, whose codes are of the same rows.

    A latent is at most one of these, in this order: same or drifted (``classes``), the sum of others or a part of such a sum
    (``compositions``), or gone.
    """
    found = nearest(comparison)
    partner = assign(comparison, found)
    back = np.full(len(found.of_b), -1, np.int64)
    matched = np.flatnonzero(partner >= 0)
    back[partner[matched]] = matched
    split = compositions(comparison, np.flatnonzero(partner < 0), np.flatnonzero(back < 0))
    rest_a = np.setdiff1d(np.flatnonzero(partner < 0), list(split))
    rest_b = np.setdiff1d(np.flatnonzero(back < 0), _members(split))
    merged = compositions(comparison.turned, rest_b, rest_a)
    return Matching(
        a=_fates(comparison, partner, found.of_a, "died", {"split": split, "merged": _turned(merged)}),
        b=_fates(comparison.turned, back, found.of_b, "born", {"split": _turned(split), "merged": merged}),
        rows=comparison.a.activity.rows,
        cosine=float(np.median(found.C_d)),
        null=null_cosine(comparison.a.directions, comparison.b.directions),
    )


def _fates(
    comparison: Comparison, partner: np.ndarray, likeliest: np.ndarray, alone: str, relatives: Mapping[str, Parts]
) -> Fates:
    every = np.arange(len(partner))
    near = np.where(partner >= 0, partner, likeliest)
    evidence = comparison.pairs(every, near)
    kind = np.where(partner >= 0, np.where(same(evidence), "same", "drifted"), alone).astype(object)
    for name, found in relatives.items():
        kind[np.array(list(found), np.int64)] = name
    both = {latent: others for found in relatives.values() for latent, others in found.items()}
    return Fates(kind, partner, near, evidence, comparison.a.activity.n_active, both)


def _members(compositions: Parts) -> list[int]:
    return [part for parts in compositions.values() for part in parts]


def _turned(compositions: Parts) -> Parts:
    """For each part the wholes that it is a part of."""
    found: dict[int, tuple[int, ...]] = {}
    for whole, parts in compositions.items():
        for part in parts:
            found[part] = (*found.get(part, ()), whole)
    return found
