"""The first look at every held-out row: all sums, and the evidence from which contexts are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
from jaxtyping import Float64

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
    """Activations of each latent summed over the rows of each label, in the order in which labels first occur.

    None where rows have no labels, or too many.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    totals: Mapping[str, Float64[np.ndarray, "d_sae"]] = field(default_factory=dict)
    too_many: bool = False

    def __add__(self, other: "LabelSums") -> "LabelSums":
        labels = list(dict.fromkeys([*self.rows, *other.rows]))
        if self.too_many or other.too_many or len(labels) > MAX_LABELS:
            return LabelSums(too_many=True)
        rows = {label: self.rows.get(label, 0) + other.rows.get(label, 0) for label in labels}
        pairs = ((label, [s.totals[label] for s in (self, other) if label in s.totals]) for label in labels)
        return LabelSums(rows, {label: sum(parts[1:], parts[0]) for label, parts in pairs})

    @staticmethod
    def of(labels: list[str], codes: Codes, d_sae: int) -> "LabelSums":
        """The sums of rows with these labels."""
        names = list(dict.fromkeys(labels))
        if len(names) > MAX_LABELS:
            return LabelSums(too_many=True)
        number = {name: n for n, name in enumerate(names)}
        label_of = np.array([number[label] for label in labels])
        cell = label_of[codes.row] * d_sae + codes.latent
        totals = np.bincount(cell, weights=codes.value, minlength=len(names) * d_sae).reshape(len(names), d_sae)
        counts = np.bincount(label_of, minlength=len(names))
        return LabelSums(
            {name: int(n) for name, n in zip(names, counts, strict=True)}, dict(zip(names, totals, strict=True))
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
        sums.append(_sums(chunk, sae.d_sae, median_norm, None if rows.label is None else rows.label[part]))
        waiting = Hits.joined([waiting, Hits.of(chunk.codes, piece.first + chunk.start, rows.sequence[part])])
        if len(waiting) > _HITS_AT_ONCE:
            evidence, waiting = evidence.seeing(waiting), Hits.none()
    every, usual, latents, labels = (reduce(add, column) for column in zip(*sums, strict=True))
    return Survey(every, usual, latents, evidence.seeing(waiting), labels)


def _sums(
    chunk: Chunk, d_sae: int, median_norm: float, labels: list[str] | None
) -> tuple[ReconstructionSums, ReconstructionSums, LatentSums, LabelSums]:
    x, x_hat = chunk.x.astype(np.float64), chunk.x_hat.astype(np.float64)
    usual = np.linalg.norm(x, axis=1) <= HIGH_NORM_MULTIPLE * median_norm
    every = ReconstructionSums.of(x, x_hat)
    codes = chunk.codes
    return (
        every,
        every if usual.all() else ReconstructionSums.of(x[usual], x_hat[usual]),
        LatentSums.of(codes.row, codes.latent, codes.value, len(x), d_sae),
        LabelSums() if labels is None else LabelSums.of(labels, codes, d_sae),
    )
