"""The first look at every held-out row: all sums, and the evidence from which contexts are chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
from jaxtyping import Float64, Int64

from tasks.activations.schema import to_float32
from tasks.activations.writer import Rows
from tasks.encode.chunks import encoded
from tasks.encode.codes import CSRCodes
from tasks.encode.pieces import Piece
from tasks.sae import SparseAutoencoder
from tasks.score.config import ScoreConfig
from tasks.score.examples import Evidence, Hits
from tasks.score.rebuilt import Rebuilt
from tasks.score.roles import Roles
from tasks.score.stats import Adding, LatentSums

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
    def of(labels: list[str], sequence: Int64[np.ndarray, "n"], codes: CSRCodes, d_sae: int) -> "LabelSums":
        """The sums of rows with these labels and row numbers in the source."""
        names, label_of, counts = np.unique(np.array(labels, dtype=object), return_inverse=True, return_counts=True)
        if len(names) > MAX_LABELS:
            return LabelSums(too_many=True)
        lowest = np.full(len(names), np.iinfo(np.int64).max)
        np.minimum.at(lowest, label_of, sequence)
        cell = label_of[codes.rows] * d_sae + codes.latents
        totals = np.bincount(cell, weights=codes.values, minlength=len(names) * d_sae).astype(np.float64)
        return LabelSums(
            dict(zip(names, counts.tolist(), strict=True)),
            dict(zip(names, lowest.tolist(), strict=True)),
            dict(zip(names, totals.reshape(len(names), d_sae), strict=True)),
        )


@dataclass(frozen=True, slots=True)
class Survey(Adding):
    """What one look at some rows gives; the surveys of two sets of rows add to that of both."""

    rebuilt: Rebuilt
    latents: LatentSums
    evidence: Evidence
    labels: LabelSums


def survey(
    sae: SparseAutoencoder,
    rows: Rows,
    dtype: str,
    piece: Piece,
    median_norms: Sequence[float],
    config: ScoreConfig,
    roles: Roles | None = None,
) -> Survey:
    """Look at a piece's rows, chunk by chunk.

    Args:
        sae: what is scored.
        rows: of the piece, the features of all hooks side by side.
        dtype: in which they are stored.
        piece: what part of all rows they are.
        median_norms: of the held-out rows at each hook that is rebuilt.
        config: what evidence is kept.
        roles: which columns are read and rebuilt; all of them by default.
    """
    roles = roles or Roles()
    sums: list[tuple[Rebuilt, LatentSums, LabelSums]] = []
    evidence, waiting = Evidence.none(config), Hits.none()
    for chunk in encoded(sae, [rows.activation[:, roles.reads]], dtype):
        part = slice(chunk.start, chunk.stop)
        labels = LabelSums()
        if rows.label is not None:
            labels = LabelSums.of(rows.label[part], rows.sequence[part], chunk.codes, sae.d_sae)
        target = to_float32(rows.activation[part, roles.rebuilds], dtype) if roles.kind == "transcoder" else chunk.x
        latents = LatentSums.of(chunk.codes, sae.d_sae)
        sums.append((Rebuilt.of(target, chunk.x_hat(), median_norms, roles), latents, labels))
        waiting = Hits.joined([waiting, Hits.of(chunk.codes, piece.first + chunk.start, rows.sequence[part])])
        if len(waiting) > _HITS_AT_ONCE:
            evidence, waiting = evidence.seeing(waiting), Hits.none()
    rebuilt, latents, labels = (reduce(add, column) for column in zip(*sums, strict=True))
    return Survey(rebuilt, latents, evidence.seeing(waiting), labels)
