"""Two SAEs held against each other: cosines and correlations of their latents, a block or some pairs at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from tasks.encode.chunks import chunk_rows
from tasks.identity.activity import Activity, Csr
from tasks.identity.directions import UnitDirections

LEAST_ROWS = 30
"""Where neither latent fires on as many rows, their correlation says nothing, and the decoder alone decides."""
_PAIRS_AT_ONCE = 4_096

Indices = Int64[np.ndarray, "n"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two SAEs."""

    directions: UnitDirections
    activity: Activity


@dataclass(frozen=True, slots=True)
class PairBlock:
    """Some latents of A against some of B."""

    start: int
    """Place of the first among the latents of A that were asked for."""
    C_d: Float32[np.ndarray, "n m"]
    """Cosines of decoder rows."""
    R: Float32[np.ndarray, "n m"]
    """Correlations of codes over all rows; 0 where a latent never fires."""
    score: Float32[np.ndarray, "n m"]
    """How alike two latents are: R, or C_d where neither fires on ``LEAST_ROWS`` rows."""


@dataclass(frozen=True, slots=True)
class PairEvidence:
    """How alike the latents of some pairs are."""

    C_d: Float32[np.ndarray, "n"]
    C_e: Float32[np.ndarray, "n"]
    R: Float32[np.ndarray, "n"]
    measured: Bool[np.ndarray, "n"]
    """Whether one of the two fires often enough for R to count."""
    one_is_silent: Bool[np.ndarray, "n"]
    """Whether one of the two never fires."""

    def __getitem__(self, places: Indices) -> "PairEvidence":
        return PairEvidence(*(getattr(self, field.name)[places] for field in fields(self)))

    @property
    def score(self) -> Float32[np.ndarray, "n"]:
        """R, or C_d where that does not count."""
        return np.where(self.measured, self.R, self.C_d)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The latents of A and B, whose codes are of the same rows."""

    a: Side
    b: Side

    @property
    def turned(self) -> "Comparison":
        """B against A."""
        return Comparison(self.b, self.a)

    def blocks(self, of_a: Indices, of_b: Indices) -> Iterator[PairBlock]:
        """All pairs of some latents, in blocks of some million."""
        decoder, by_row = self._decoder(self.b, of_b), self._by_row(of_b)
        shift, seldom = self.b.activity.shift[of_b], self.b.activity.n_active[of_b] < LEAST_ROWS
        size = chunk_rows(max(1, len(of_b)))
        for start in range(0, len(of_a), size):
            latents = of_a[start : start + size]
            C_d = (self._decoder(self.a, latents) @ decoder.T).cpu().numpy()
            R = (self.a.activity.by_latent[latents] @ by_row).toarray()
            R -= np.outer(self.a.activity.shift[latents], shift)
            both_seldom = (self.a.activity.n_active[latents] < LEAST_ROWS)[:, None] & seldom
            yield PairBlock(start, C_d, R, np.where(both_seldom, C_d, R))

    def pairs(self, a: Indices, b: Indices) -> PairEvidence:
        """What is known of each pair of a latent of A and a latent of B."""
        of_a, of_b = self.a.activity, self.b.activity
        fires_a, fires_b = of_a.n_active[a], of_b.n_active[b]
        parts = [slice(start, start + _PAIRS_AT_ONCE) for start in range(0, len(a), _PAIRS_AT_ONCE)]
        R = _joined([self._correlations(a[part], b[part]) for part in parts])
        C_d = _joined([_dots(self.a.directions.decoder, self.b.directions.decoder, a[part], b[part]) for part in parts])
        C_e = _joined([_dots(self.a.directions.encoder, self.b.directions.encoder, a[part], b[part]) for part in parts])
        measured = np.maximum(fires_a, fires_b) >= LEAST_ROWS
        return PairEvidence(C_d, C_e, R, measured, np.minimum(fires_a, fires_b) == 0)

    def _correlations(self, a: Indices, b: Indices) -> Float32[np.ndarray, "n"]:
        of_a, of_b = self.a.activity, self.b.activity
        together = of_a.by_latent[a].multiply(of_b.by_latent[b]).sum(axis=1)
        return np.asarray(np.asarray(together).ravel() - of_a.shift[a] * of_b.shift[b], np.float32)

    def _by_row(self, of_b: Indices) -> Csr:
        whole = self.b.activity.by_row
        return whole if len(of_b) == whole.shape[1] else whole[:, of_b]

    @staticmethod
    def _decoder(side: Side, latents: Indices) -> torch.Tensor:
        decoder = side.directions.decoder
        return decoder if len(latents) == len(decoder) else decoder[torch.from_numpy(latents).to(decoder.device)]


def _dots(of_a: torch.Tensor, of_b: torch.Tensor, a: Indices, b: Indices) -> Float32[np.ndarray, "n"]:
    rows_a, rows_b = (of[torch.from_numpy(latents).to(of.device)] for of, latents in ((of_a, a), (of_b, b)))
    found: Float32[np.ndarray, n] = (rows_a * rows_b).sum(dim=1).cpu().numpy()
    return found


def _joined(parts: list[Float32[np.ndarray, "n"]]) -> Float32[np.ndarray, "m"]:
    return np.concatenate([np.zeros(0, np.float32), *parts])
