"""Evidence for each latent, gathered in one pass over all rows: its strongest activations and a fair sample of the others.

Both are exact and merge: the evidence of two sets of rows added is the evidence of both together, however the rows were
split. The sample is the activations of lowest priority, a hash of row and latent, so it needs no random state.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped, UInt64

from tasks.encode.codes import CSRCodes
from tasks.score.config import ScoreConfig

_SAMPLE_PER_CONTEXT = 8
"""Sampled activations for each context shown from a quantile: the quantiles' borders are estimated from the sample."""


@dataclass(frozen=True, slots=True)
class Hits:
    """Single activations: ``value`` of ``latent`` at ``row`` (its number among all rows scored) of ``sequence``.

    They are picked out of the codes of many rows and sorted by latent, so that a row's other codes are not among them.
    """

    latent: Int64[np.ndarray, "m"]
    value: Float32[np.ndarray, "m"]
    row: Int64[np.ndarray, "m"]
    sequence: Int64[np.ndarray, "m"]

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, index: Int64[np.ndarray, "n"] | Bool[np.ndarray, "m"]) -> "Hits":
        """The hits at ``index``, in its order."""
        return Hits(self.latent[index], self.value[index], self.row[index], self.sequence[index])

    @staticmethod
    def joined(parts: "list[Hits]") -> "Hits":
        """All hits of all parts."""
        return Hits(
            np.concatenate([part.latent for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate([part.row for part in parts]),
            np.concatenate([part.sequence for part in parts]),
        )

    @staticmethod
    def none() -> "Hits":
        """No hits."""
        empty = np.zeros(0, np.int64)
        return Hits(empty, np.zeros(0, np.float32), empty, empty)

    @staticmethod
    def of(codes: CSRCodes, first_row: int, sequence: Int64[np.ndarray, "n"]) -> "Hits":
        """The hits of n rows that begin at ``first_row`` and lie in ``sequence``."""
        rows = codes.rows
        return Hits(codes.latents.astype(np.int64), codes.values, rows + first_row, sequence[rows])


@dataclass(frozen=True, slots=True)
class Evidence:
    """The hits kept of all that were seen."""

    n_top: int
    n_sample: int
    top: Hits
    """For each latent the strongest hit of each of the ``n_top`` sequences in which it fires most."""
    sample: Hits
    """For each latent the ``n_sample`` hits of lowest priority."""

    @staticmethod
    def none(config: ScoreConfig) -> "Evidence":
        """Evidence before anything was seen."""
        n_sample = _SAMPLE_PER_CONTEXT * config.quantiles * config.contexts_per_quantile
        return Evidence(config.top_contexts, n_sample, Hits.none(), Hits.none())

    def seeing(self, hits: Hits) -> "Evidence":
        """The evidence after further hits; those that cannot enter a full list are not even sorted."""
        top, sample = self.top, self.sample
        may_be_top = _may_enter(top.latent, top.value, self.n_top, hits.latent, hits.value)
        may_be_sampled = _may_enter(sample.latent, ~priority(sample), self.n_sample, hits.latent, ~priority(hits))
        return self + Evidence(self.n_top, self.n_sample, hits.take(may_be_top), hits.take(may_be_sampled))

    def __add__(self, other: "Evidence") -> "Evidence":
        if not len(other.top) and not len(other.sample):  # of a piece whose hits stand in another's evidence
            return self
        return Evidence(
            self.n_top,
            self.n_sample,
            strongest(Hits.joined([self.top, other.top]), self.n_top),
            sampled(Hits.joined([self.sample, other.sample]), self.n_sample),
        )


def strongest(hits: Hits, n: int) -> Hits:
    """At most ``n`` hits per latent, strongest first and of distinct sequences; among equals the earlier row."""
    hits = hits.take(np.lexsort((hits.row, _by_latent_and_strength(hits))))
    hits = hits.take(_first_of_each(hits.latent, hits.sequence))
    return hits.take(rank_in_group(hits.latent) < n)


def sampled(hits: Hits, n: int) -> Hits:
    """At most ``n`` hits per latent, those of lowest priority, in its order."""
    hits = hits.take(np.lexsort((hits.row, priority(hits), hits.latent)))
    return hits.take(rank_in_group(hits.latent) < n)


@dataclass(frozen=True, slots=True)
class ChosenContexts:
    """Hits chosen to be shown, each with its group (0 top, i the i-th quantile from above) and rank in the group."""

    hits: Hits
    group: Int64[np.ndarray, "m"]
    rank: Int64[np.ndarray, "m"]

    def __len__(self) -> int:
        return len(self.hits)

    def take(self, index: Int64[np.ndarray, "n"] | Bool[np.ndarray, "m"]) -> "ChosenContexts":
        """The contexts at ``index``, in its order."""
        return ChosenContexts(self.hits.take(index), self.group[index], self.rank[index])

    def between(self, first: int, stop: int) -> "ChosenContexts":
        """The contexts whose row lies in [first, stop)."""
        return self.take((self.hits.row >= first) & (self.hits.row < stop))


def choose(evidence: Evidence, config: ScoreConfig) -> ChosenContexts:
    """The contexts to show: all of the top list, and of each lower quantile a few drawn from the sample.

    The sample of a latent, from strong to weak, is cut into ``quantiles`` groups of equal size. Within a group hits of
    sequences that are not shown yet come first, and hits of the top list not at all.
    """
    top, sample = evidence.top, evidence.sample
    sample = sample.take(np.lexsort((sample.row, _by_latent_and_strength(sample))))
    size = np.bincount(sample.latent, minlength=1)[sample.latent]
    group = 1 + rank_in_group(sample.latent) * config.quantiles // np.maximum(1, size)
    shown = np.isin(_pair(sample.latent, sample.row), _pair(top.latent, top.row))
    sample, group = sample.take(~shown), group[~shown]
    drawn = _draw(sample, group, top, config.contexts_per_quantile)
    sample, group = sample.take(drawn), group[drawn]
    hits = Hits.joined([top, sample])
    group = np.concatenate([np.zeros(len(top), np.int64), group])
    order = np.lexsort((hits.row, -hits.value, group, hits.latent))
    hits, group = hits.take(order), group[order]
    return ChosenContexts(hits, group, rank_in_group(_pair(hits.latent, group)))


def _draw(sample: Hits, group: Int64[np.ndarray, "m"], top: Hits, n: int) -> Bool[np.ndarray, "m"]:
    """Which sampled hits are shown: ``n`` of each latent's group, new sequences first, then by priority."""
    order = np.lexsort((sample.row, priority(sample)))
    repeated = np.ones(len(sample), bool)
    repeated[order[_first_of_each(sample.latent[order], sample.sequence[order])]] = False
    repeated |= np.isin(_pair(sample.latent, sample.sequence), _pair(top.latent, top.sequence))
    order = np.lexsort((sample.row, priority(sample), repeated, group, sample.latent))
    drawn = np.zeros(len(sample), bool)
    drawn[order[rank_in_group(_pair(sample.latent, group)[order]) < n]] = True
    return drawn


def priority(hits: Hits) -> UInt64[np.ndarray, "m"]:
    """A hash of row and latent: the finalizer of splitmix64 (Steele, Lea and Flood 2014), which mixes all 64 bits."""
    mixed = hits.row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + hits.latent.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def rank_in_group(group: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
    """The place of each entry within its run of equal values: [4, 4, 7] gives [0, 1, 0]."""
    starts = np.flatnonzero(np.diff(group, prepend=group[:1] - 1))
    lengths = np.diff(starts, append=len(group))
    place: Int64[np.ndarray, m] = np.arange(len(group)) - np.repeat(starts, lengths)
    return place


def _may_enter(
    latent: Int64[np.ndarray, "kept"],
    score: Shaped[np.ndarray, "kept"],
    n: int,
    new_latent: Int64[np.ndarray, "m"],
    new_score: Shaped[np.ndarray, "m"],
) -> Bool[np.ndarray, "m"]:
    """Which new entries are no worse than the worst that their latent keeps, or find its list not full."""
    width = int(max(latent.max(initial=0), new_latent.max(initial=0))) + 1
    worst = np.full(width, score.max(initial=0), score.dtype)
    np.minimum.at(worst, latent, score)
    worst[np.bincount(latent, minlength=width) < n] = 0
    return np.asarray(new_score >= worst[new_latent])


def _by_latent_and_strength(hits: Hits) -> UInt64[np.ndarray, "m"]:
    """One key that sorts by latent, then from strong to weak: the bits of positive floats are in the floats' order."""
    weakness = np.uint32(0xFFFFFFFF) - hits.value.view(np.uint32)
    return np.asarray((hits.latent.astype(np.uint64) << np.uint64(32)) | weakness)


def _first_of_each(latent: Int64[np.ndarray, "m"], other: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "n"]:
    """Indices, in order, of the first entry of each pair."""
    return np.sort(np.unique(_pair(latent, other), return_index=True)[1])


def _pair(latent: Int64[np.ndarray, "m"], other: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
    """One number per pair; ``other`` (a row, a sequence or a group) stays below 2^40 and latents below 2^23."""
    return np.asarray((latent << 40) | other)
