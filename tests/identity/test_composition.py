"""Latents that were taken apart or put together, and sums that are only chance."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import normalize

from tasks.encode.codes import CSRCodes
from tasks.identity.activity import Activity
from tasks.identity.comparison import Comparison, Side
from tasks.identity.directions import UnitDirections
from tasks.identity.matching import Matching, matching
from tests.identity.planted import normal

N, D_IN = 4_000, 32
Codes = NDArray[np.float64]


def directions(n: int) -> Tensor:
    """Some orthogonal ones."""
    return torch.linalg.qr(normal(D_IN, D_IN, seed=1))[0][:n]


def comparison(a: Codes, b: Codes, related: bool = True) -> Comparison:
    """A with two latents and B with three, or the other way round; the first of two writes about what two of three write.

    None of the pairs is near enough to be one latent.
    """
    parts = directions(3)
    rest = directions(8)[6:]
    whole = normalize(parts[0] + parts[1] + 0.6 * rest[0], dim=0) if related else rest[0]
    decoder = {2: torch.stack([whole, rest[1]]), 3: parts}
    return Comparison(*(_side(codes, decoder[codes.shape[1]]) for codes in (a, b)))


def _side(codes: Codes, decoder: Tensor) -> Side:
    sparse = csr_matrix(codes.astype(np.float32))
    found = CSRCodes(sparse.indptr.astype(np.int64), sparse.indices.astype(np.int32), sparse.data)
    return Side(UnitDirections(decoder, decoder), Activity.of(found, codes.shape[1]))


def firing(share: float, seed: int) -> Codes:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(N) < share, rng.uniform(0.5, 2, N), 0)


def split_codes() -> tuple[Codes, Codes]:
    """A's latent 0 is the sum of B's 0 and 1; its latent 1 and B's 2 are alone."""
    whole, rng = firing(0.1, 0), np.random.default_rng(9)
    first = np.where(rng.random(N) < 0.6, whole, 0)
    a = np.stack([whole, firing(0.1, 1)], axis=1)
    return a, np.stack([first, whole - first, firing(0.1, 2)], axis=1)


def kinds(found: Matching) -> tuple[list[str], list[str]]:
    return found.a.kind.tolist(), found.b.kind.tolist()


def test_a_latent_that_was_split_is_found_with_its_parts() -> None:
    found = matching(comparison(*split_codes()))
    assert kinds(found) == (["split", "died"], ["split", "split", "born"])
    assert found.a.relatives == {0: (0, 1)}
    assert found.b.relatives == {0: (0,), 1: (0,)}
    assert found.shares["split"] == 0.5


def test_latents_that_were_merged_are_found_with_what_they_came_to() -> None:
    a, b = split_codes()
    found = matching(comparison(b, a))
    assert kinds(found) == (["merged", "merged", "died"], ["merged", "born"])
    assert found.b.relatives == {0: (0, 1)}
    assert found.shares["merged"] == 0.5
    assert found.counts["a"] == {"same": 0, "drifted": 0, "split": 0, "merged": 2, "died": 1}


def test_what_holds_on_the_first_half_of_the_rows_only_is_chance() -> None:
    a, b = split_codes()
    b[N // 2 :, :2] = np.stack([firing(0.06, 5), firing(0.04, 6)], axis=1)[N // 2 :]
    assert kinds(matching(comparison(a, b))) == (["died", "died"], ["born", "born", "born"])


def test_parts_that_write_something_else_are_none() -> None:
    assert kinds(matching(comparison(*split_codes(), related=False))) == (["died", "died"], ["born", "born", "born"])


def test_weights_are_not_negative() -> None:
    a, b = split_codes()
    difference = np.stack([b[:, 0] + firing(0.1, 3), firing(0.1, 3), b[:, 2]], axis=1)
    a = np.stack([b[:, 0], a[:, 1]], axis=1)  # B's 0 less its 1
    assert kinds(matching(comparison(a, difference)))[0] == ["died", "died"]


@pytest.mark.parametrize("share", [0.0, 0.005])
def test_a_latent_that_fires_too_seldom_is_no_sum(share: float) -> None:
    a, b = split_codes()
    keep = (np.random.default_rng(3).random(N) < share / 0.1)[:, None]
    assert kinds(matching(comparison(a * keep, b * keep)))[0] == ["died", "died"]


def test_one_latent_that_fires_alike_is_no_sum_of_two() -> None:
    a, b = split_codes()
    b[:, 0], b[:, 1] = a[:, 0], 0.01 * b[:, 1]
    assert kinds(matching(comparison(a, b)))[0] == ["died", "died"]
