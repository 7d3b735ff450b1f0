from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.encode.codes import CSRCodes, TensorCodes
from tasks.score.stats import DENSITY_EDGES, LatentSums, ReconstructionSums, Spread

numbers = st.floats(-1e3, 1e3, width=32)
pairs = arrays(np.float64, st.tuples(st.just(2), st.integers(1, 30), st.just(3)), elements=numbers)
cuts = st.lists(st.integers(0, 30), max_size=5)


def parts(rows: np.ndarray, at: list[int]) -> list[np.ndarray]:
    return np.split(rows, sorted(min(i, len(rows)) for i in at))


def codes_of(dense: np.ndarray) -> CSRCodes:
    return TensorCodes.of_dense(torch.from_numpy(dense)).in_main_memory()


@settings(deadline=None)
@given(pairs, cuts)
def test_adding_the_sums_of_any_parts_gives_the_sums_of_the_whole(pair: np.ndarray, at: list[int]) -> None:
    x, x_hat = pair
    merged = reduce(add, [ReconstructionSums.of(a, b) for a, b in zip(parts(x, at), parts(x_hat, at), strict=True)])
    whole = ReconstructionSums.of(x, x_hat)
    for name in ("error", "cosine", "norm_ratio", "x_hat_square", "x_dot_x_hat"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-6)
    assert merged.x.count == whole.x.count
    np.testing.assert_allclose(merged.x.mean, whole.x.mean, rtol=1e-9, atol=1e-9)
    assert merged.x.deviation == pytest.approx(whole.x.deviation, rel=1e-9, abs=1e-6)


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 20), st.just(4)), elements=st.sampled_from([0.0, 0.5, 2.0])), cuts)
def test_adding_latent_sums_of_any_parts_gives_those_of_the_whole(dense: np.ndarray, at: list[int]) -> None:
    merged = reduce(add, [LatentSums.of(codes_of(part), 4) for part in parts(dense, at)])
    whole = LatentSums.of(codes_of(dense), 4)
    assert merged.n_tokens == whole.n_tokens
    for name in ("n_active", "total", "largest", "tokens_by_l0"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))


def test_reconstruction_numbers_agree_with_their_textbook_formulas() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 6)) + 5
    x_hat = 0.7 * x + 0.1 * rng.standard_normal((50, 6))
    sums = ReconstructionSums.of(x, x_hat)
    norm, hat = np.linalg.norm(x, axis=1), np.linalg.norm(x_hat, axis=1)
    assert sums.fvu == pytest.approx(((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())
    assert sums.mean_cosine == pytest.approx(((x * x_hat).sum(1) / norm / hat).mean())
    assert sums.shrinkage == pytest.approx((hat / norm).mean())
    assert sums.gamma == pytest.approx((hat**2).mean() / (x * x_hat).sum(1).mean())


def test_fvu_of_the_mean_is_one_and_of_a_perfect_copy_zero() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3)) + 100
    assert ReconstructionSums.of(x, np.broadcast_to(x.mean(0), x.shape)).fvu == pytest.approx(1)
    assert ReconstructionSums.of(x, x).fvu == 0


def test_fvu_of_batches_is_not_their_average() -> None:
    near, far = np.array([[0.0], [2.0]]), np.array([[100.0], [102.0]])
    sums = [ReconstructionSums.of(x, x + 1) for x in (near, far)]
    assert [part.fvu for part in sums] == [1, 1]
    assert (sums[0] + sums[1]).fvu == pytest.approx(4 / 10004)


def test_a_mean_far_above_the_spread_loses_no_variance() -> None:
    x = 1e7 + np.random.default_rng(0).standard_normal((1000, 2))
    merged = reduce(add, [Spread.of(part) for part in np.split(x, 10)])
    assert merged.deviation == pytest.approx(((x - x.mean(0)) ** 2).sum(), rel=1e-9)


def test_rows_that_do_not_vary_have_no_fvu() -> None:
    x = np.ones((4, 3))
    assert ReconstructionSums.of(x, x).fvu is None
    assert ReconstructionSums.of(x[:0], x[:0]).mean_cosine is None


def test_latent_numbers_agree_with_the_dense_codes() -> None:
    dense = np.zeros((100, 5), np.float32)
    dense[:, 1] = 1  # on every token
    dense[:11, 2] = [*range(1, 12)]  # on 11%
    dense[:10, 3] = 2  # on exactly 10%, which is not dense
    sums = LatentSums.of(codes_of(dense), 5)
    assert sums.l0 == (dense > 0).sum(1).mean()
    assert sums.dead_fraction == 2 / 5
    assert sums.dense_fraction == 2 / 5
    assert sums.largest.tolist() == dense.max(0).tolist()
    assert sums.total.tolist() == dense.sum(0).tolist()
    assert [sums.l0_percentile(p) for p in (5, 50, 89, 90, 95)] == [1, 1, 1, 2, 3]


def test_density_histogram_counts_every_latent_once_and_the_silent_in_the_first_bin() -> None:
    dense = np.zeros((1000, 4), np.float32)
    dense[0, 1], dense[:, 2] = 1, 1
    counts = LatentSums.of(codes_of(dense), 4).density_histogram
    assert counts.sum() == 4
    assert counts[0] == 2
    assert counts[-1] == 1
    assert counts[np.searchsorted(DENSITY_EDGES, -3 + 1e-6) - 1] == 1
