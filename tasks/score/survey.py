"""The first look at every held-out row: all sums, and the evidence from which contexts are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
from jaxtyping import Float64, Int64

from tasks.sae import SparseAutoencoder
from tasks.score.codes import Chunk, Codes, chunks
from tasks.score.config import ScoreConfig
from tasks.score.examples import Evidence, Hits
from tasks.score.pieces import Piece
from tasks.score.stats import HIGH_NORM_MULTIPLE, LatentSums, ReconstructionSums
from tasks.store.writer import Rows

MAX_LABELS = 64
"""With more labels than this a heat map of labels by latents says nothing at a glance."""
_HITS_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True)
class LabelSums:
    """Activations of each latent summed over the rows of each label; none where rows have no labels, or too many."""

    rows: Mapping[str, int] = field(default_factory=dict)
    first: Mapping[str, int] = field(default_factory=dict)
    """Each label's lowest row number in the source."""
    totals: Mapping[str, Float64[np.ndarray, "d_sae"]] = field(default_factory=dict)
    too_many: bool = False

    def __add__(self, other: "LabelSums") -> "LabelSums":
        labels = sorted({*self.rows, *other.rows})
        if self.too_many or other.too_many or len(labels) > MAX_LABELS:
            return LabelSums(too_many=True)
        both = (self, other)
        return LabelSums(
            {label: sum(part.rows.get(label, 0) for part in both) for label in labels},
            {label: min(part.first[label] for part in both if label in part.first) for label in labels},
            {label: reduce(add, [part.totals[label] for part in both if label in part.totals]) for label in labels},
        )

    @staticmethod
    def of(labels: list[str], sequence: Int64[np.ndarray, "n"], codes: Codes, d_sae: int) -> "LabelSums":
        """The sums of rows with these labels and row numbers in the source."""
        names, label_of, counts = np.unique(np.array(labels, dtype=object), return_inverse=True, return_counts=True)
        if len(names) > MAX_LABELS:
            return LabelSums(too_many=True)
        lowest = np.full(len(names), np.iinfo(np.int64).max)
        np.minimum.at(lowest, label_of, sequence)
        cell = label_of[codes.row] * d_sae + codes.latent
        totals = np.bincount(cell, weights=codes.value, minlength=len(names) * d_sae).astype(np.float64)
        return LabelSums(
            dict(zip(names, counts.tolist(), strict=True)),
            dict(zip(names, lowest.tolist(), strict=True)),
            dict(zip(names, totals.reshape(len(names), d_sae), strict=True)),
        )


@dataclass(frozen=True, slots=True)
class Survey:
    """What one look at some rows gives; the surveys of two sets of rows add to that of both."""

    all_rows: ReconstructionSums
    usual_rows: ReconstructionSums
    """Of the rows whose norm is at most twice the recorded median."""
    latents: LatentSums
    evidence: Evidence
    labels: LabelSums

    def __add__(self, other: "Survey") -> "Survey":
        return Survey(
            self.all_rows + other.all_rows,
            self.usual_rows + other.usual_rows,
            self.latents + other.latents,
            self.evidence + other.evidence,
            self.labels + other.labels,
        )


def survey(sae: SparseAutoencoder, rows: Rows, dtype: str, piece: Piece, median_norm: float, config: ScoreConfig) -> Survey:
    """Look at a piece's rows, chunk by chunk."""
    sums: list[tuple[ReconstructionSums, ReconstructionSums, LatentSums, LabelSums]] = []
    evidence, waiting = Evidence.none(config), Hits.none()
    for chunk in chunks(sae, rows.activation, dtype):
        part = slice(chunk.start, chunk.start + len(chunk.x))
        labels = LabelSums()
        if rows.label is not None:
            labels = LabelSums.of(rows.label[part], rows.sequence[part], chunk.codes, sae.d_sae)
        sums.append((*_reconstruction(chunk, median_norm), LatentSums.of(chunk.codes, len(chunk.x), sae.d_sae), labels))
        waiting = Hits.joined([waiting, Hits.of(chunk.codes, piece.first + chunk.start, rows.sequence[part])])
        if len(waiting) > _HITS_AT_ONCE:
            evidence, waiting = evidence.seeing(waiting), Hits.none()
    every, usual, latents, labels = (reduce(add, column) for column in zip(*sums, strict=True))
    return Survey(every, usual, latents, evidence.seeing(waiting), labels)


def _reconstruction(chunk: Chunk, median_norm: float) -> tuple[ReconstructionSums, ReconstructionSums]:
    """The sums of all rows, and of those of usual norm."""
    x, x_hat = chunk.x.astype(np.float64), chunk.x_hat.astype(np.float64)
    usual = np.linalg.norm(x, axis=1) <= HIGH_NORM_MULTIPLE * median_norm
    return ReconstructionSums.of(x, x_hat), ReconstructionSums.of(x[usual], x_hat[usual])
