"""Latents that were taken apart, or put together: one whose codes are a sum of those of two or three of the other SAE."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float32
from scipy.optimize import nnls
from scipy.sparse import vstack

from tasks.identity.classes import DRIFTED
from tasks.identity.comparison import LEAST_ROWS, Comparison, Indices

CANDIDATES = 8
"""Latents of the other SAE that are tried for each, those with the highest correlations."""
MOST_PARTS = 3
EXPLAINED = 0.8
"""R^2 on rows that the weights were not fitted to, from which a latent is the sum of others."""
LEAST_SHARE = 0.1
"""Of the sum, below which a latent is no part of it."""
_LEAST_R = 0.4
"""Of uncorrelated parts that explain .8 of a latent, three at most, one has a correlation of (.8 / 3)^.5 = .52 at least."""


def compositions(comparison: Comparison, wholes: Indices, parts: Indices) -> Mapping[int, tuple[int, ...]]:
    """Those latents ``wholes`` of A that are sums of two or three of ``parts`` of B, by their numbers.

    Weights that are not negative are fitted on the first half of the rows (NNLS), and judged on the second, and the parts'
    decoder rows must add up to about the whole's, so that chance does not count. Of 230 random directions beside a trained
    SAE, two or three were sums by their codes alone. A latent must fire on ``LEAST_ROWS`` rows of each half.
    """
    found: dict[int, tuple[int, ...]] = {}
    if len(parts) < 2:
        return found
    often = wholes[comparison.a.activity.n_active[wholes] >= 2 * LEAST_ROWS]
    for block in comparison.blocks(often, parts):
        n = min(CANDIDATES, len(parts))
        places = np.argpartition(block.R, -n, axis=1)[:, -n:]
        likely = np.take_along_axis(block.R, places, axis=1)
        for row in np.flatnonzero(likely.max(axis=1) >= _LEAST_R):
            candidates = np.sort(parts[places[row][likely[row] > 0]])
            whole = int(often[block.start + row])
            if members := _members(comparison, whole, candidates):
                found[whole] = members
    return found


def _members(comparison: Comparison, whole: int, candidates: Indices) -> tuple[int, ...]:
    """The latents of B whose sum a latent of A is; none where there is no such sum."""
    codes = vstack([comparison.a.activity.by_latent[[whole]], comparison.b.activity.by_latent[candidates]]).tocsc()
    rows = np.flatnonzero(np.diff(codes.indptr))  # all others are 0 on both sides
    dense = codes[:, rows].toarray().astype(np.float64)
    half = comparison.a.activity.rows // 2
    fitted, judged = dense[:, rows < half], dense[:, rows >= half]
    if min(np.count_nonzero(fitted[0]), np.count_nonzero(judged[0])) < LEAST_ROWS:
        return ()
    share = _shares(fitted, np.arange(len(candidates)))
    kept = np.sort(np.argsort(-share, kind="stable")[:MOST_PARTS])
    share = _shares(fitted, kept)
    kept = kept[share[kept] >= LEAST_SHARE]
    if len(kept) < 2 or _explained(fitted, judged, kept, comparison.a.activity.rows - half) < EXPLAINED:
        return ()
    return tuple(candidates[kept].tolist()) if _writes_alike(comparison, whole, candidates[kept], share[kept]) else ()


def _writes_alike(comparison: Comparison, whole: int, parts: Indices, share: Float32[np.ndarray, "parts"]) -> bool:
    """Whether what the parts write together, each by its share, is near to what the whole writes."""
    of_whole, of_parts = comparison.a.directions.decoder, comparison.b.directions.decoder
    together = torch.from_numpy(share).float() @ of_parts[torch.from_numpy(parts).to(of_parts.device)].cpu()
    cosine = torch.nn.functional.cosine_similarity(of_whole[whole].cpu(), together, dim=0)
    return float(cosine) >= DRIFTED


def _shares(codes: np.ndarray, kept: np.ndarray) -> Float32[np.ndarray, "candidates"]:
    """What each of the ``kept`` candidates adds to the fitted sum, as a share of it."""
    share = np.zeros(len(codes) - 1)
    share[kept] = _weights(codes, kept) * codes[1 + kept].sum(axis=1)
    return np.asarray(share / max(share.sum(), np.finfo(np.float64).tiny))


def _explained(fitted: np.ndarray, judged: np.ndarray, kept: np.ndarray, n: int) -> float:
    """R^2 over all ``n`` rows of the second half, on most of which all codes are 0."""
    rest = judged[0] - _weights(fitted, kept) @ judged[1 + kept]
    variance = float(np.square(judged[0]).sum()) - float(judged[0].sum()) ** 2 / n
    return 1 - float(np.square(rest).sum()) / variance if variance > 0 else 0.0  # constant on these rows: nothing to explain


def _weights(codes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    found: np.ndarray = nnls(codes[1 + kept].T, codes[0])[0]
    return found
