"""Latents of A and B one to one: mutual nearest first, then the best assignment of the rest among likely candidates."""

import numpy as np
from jaxtyping import Int64
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from tasks.identity.classes import DRIFTED, continued
from tasks.identity.comparison import Comparison, Indices
from tasks.identity.nearest import Nearest

CANDIDATES = 32
"""Latents of B that are looked at for each latent of A without a mutual nearest one: so many by C_d, and so many by R."""
_NO_PARTNER = 3.0
"""Cost of none; of a partner it is 2 less the score, which is more than none only below a score of -1."""


def assign(comparison: Comparison, found: Nearest) -> Int64[np.ndarray, "d_a"]:
    """For each latent of A the latent of B that continues it, or -1; each of B is given once at most."""
    partner = np.full(len(found.of_a), -1, np.int64)
    a = np.flatnonzero(found.of_b[found.of_a] == np.arange(len(found.of_a)))
    kept = a[continued(comparison.pairs(a, found.of_a[a]))]
    partner[kept] = found.of_a[kept]
    rest_a, rest_b = np.flatnonzero(partner < 0), np.setdiff1d(np.arange(len(found.of_b)), partner)
    a, b = _candidates(comparison, rest_a, rest_b)
    evidence = comparison.pairs(a, b)
    one = continued(evidence)
    a, b = _cheapest(a[one], b[one], 2.0 - evidence.score[one])
    partner[a] = b
    return partner


def _candidates(comparison: Comparison, rest_a: Indices, rest_b: Indices) -> tuple[Indices, Indices]:
    """Pairs whose decoders are near enough, among the first ``CANDIDATES`` of each latent of A by C_d and by R."""
    pairs = [np.zeros((0, 2), np.int64)]
    for block in comparison.blocks(rest_a, rest_b) if len(rest_b) else ():
        likely = (_among_largest(block.C_d) | _among_largest(block.R)) & (block.C_d >= DRIFTED)
        row, column = np.nonzero(likely)
        pairs.append(np.stack([rest_a[block.start + row], rest_b[column]], axis=1))
    both = np.concatenate(pairs)
    return both[:, 0], both[:, 1]


def _among_largest(values: np.ndarray) -> np.ndarray:
    """Which numbers are among the largest ``CANDIDATES`` of their row."""
    if values.shape[1] <= CANDIDATES:
        return np.ones(values.shape, bool)
    largest = np.argpartition(values, -CANDIDATES, axis=1)[:, -CANDIDATES:]
    found = np.zeros(values.shape, bool)
    np.put_along_axis(found, largest, values=True, axis=1)
    return found


def _cheapest(a: Indices, b: Indices, cost: np.ndarray) -> tuple[Indices, Indices]:
    """Of the pairs those by which most latents have a partner, each one at most, at the least cost.

    Jonker and Volgenant's algorithm for sparse matrices wants a partner for all: each row has a column of its own for none.
    """
    rows, row = np.unique(a, return_inverse=True)
    columns, column = np.unique(b, return_inverse=True)
    if not len(rows):
        return rows, columns
    none = np.arange(len(rows))
    entries = (
        np.append(cost, np.full(len(rows), _NO_PARTNER)),
        (np.append(row, none), np.append(column, len(columns) + none)),
    )
    taken, given = min_weight_full_bipartite_matching(csr_matrix(entries, shape=(len(rows), len(columns) + len(rows))))
    real = given < len(columns)
    return rows[taken[real]], columns[given[real]]
