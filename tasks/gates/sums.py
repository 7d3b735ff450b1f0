"""What one SAE comes to on held-out rows, block by block, so that rows can be drawn anew a block at a time.

Rows of a document resemble each other, so that single rows say less than their number; blocks of sequences that follow each
other hold whole documents. Metrics of blocks drawn with replacement vary as those of other text of this kind would
(Kuensch 1989, https://doi.org/10.1214/aos/1176347265). Both SAEs see the same drawn blocks: what makes a text hard for both
is no noise of their difference.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCKS = 64
"""Blocks that rows are cut into, fewer where there are fewer sequences."""
DRAWS = 400
_SEED = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric on all rows, and on each draw of blocks."""

    value: float
    draws: npt.NDArray[np.float64]
    """[DRAWS]: the same draws for both SAEs."""

    @staticmethod
    def exact(value: float) -> "Estimate":
        """Of what does not depend on rows."""
        return Estimate(value, np.full(DRAWS, value))


@dataclass(frozen=True, slots=True)
class BlockSums:
    """Sums over the rows of each block."""

    rows: npt.NDArray[np.int64]
    """[blocks]"""
    x: npt.NDArray[np.float64]
    """[blocks, d_out]: what is to be rebuilt, less the training rows' mean; several hooks in units of their variance."""
    x_square: npt.NDArray[np.float64]
    """[blocks]: squared norms of the same."""
    error: npt.NDArray[np.float64]
    """[blocks]: squared distances to the reconstructions."""
    active: npt.NDArray[np.int64]
    """[blocks]: latents above 0."""
    fired: npt.NDArray[np.bool_]
    """[blocks, d_sae]: whether each latent is above 0 on some row."""

    @property
    def l0(self) -> float:
        """Mean number of active latents per row."""
        return float(self.active.sum() / self.rows.sum())

    @property
    def fires(self) -> npt.NDArray[np.bool_]:
        """[d_sae]: whether each latent is above 0 on some row at all."""
        return np.asarray(self.fired.any(axis=0))

    def estimates(self, target_l0: float) -> dict[str, Estimate]:
        """The metrics that come of these sums."""
        n = len(self.rows)
        weights = np.concatenate([np.ones((1, n)), drawn_blocks(n)])
        found = {
            "fvu": self._fvu(weights),
            "l0_error": np.abs(weights @ self.active / (weights @ self.rows) / target_l0 - 1),
            "never_firing": self._never_firing(weights),
        }
        return {name: Estimate(float(values[0]), values[1:]) for name, values in found.items()}

    def _fvu(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Of each draw, about the mean of its own rows."""
        mean_part = np.square(weights @ self.x).sum(axis=1) / (weights @ self.rows)
        return np.asarray(weights @ self.error / (weights @ self.x_square - mean_part))

    def _never_firing(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Of each draw; one at a time, as all draws of all latents of a wide SAE would take gigabytes."""
        return np.array([1 - self.fired[chosen > 0].any(axis=0).mean() for chosen in weights])


@dataclass(frozen=True, slots=True)
class LossSums:
    """Cross-entropies of a language model, in nats, summed over each block of sequences."""

    original: npt.NDArray[np.float64]
    """[blocks]: of the model as it is."""
    sae: npt.NDArray[np.float64]
    """[blocks]: with reconstructions in place of activations."""
    mean: npt.NDArray[np.float64]
    """[blocks]: with the mean of the training rows in place of activations."""

    def recovered(self) -> Estimate:
        """(mean - sae) / (mean - original)."""
        weights = np.concatenate([np.ones((1, len(self.sae))), drawn_blocks(len(self.sae))])
        values = weights @ (self.mean - self.sae) / (weights @ (self.mean - self.original))
        return Estimate(float(values[0]), values[1:])


def drawn_blocks(n: int) -> npt.NDArray[np.float64]:
    """How often each of ``n`` blocks is in each draw, [DRAWS, n]; always the same draws."""
    return np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)


def blocks_of(sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The block of each of some sequences, which are given once each, in ascending order: equally many follow each other."""
    n = len(sequences)
    return np.arange(n, dtype=np.int64) * min(BLOCKS, n) // max(1, n)
