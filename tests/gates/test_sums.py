"""Metrics of blocks of rows, and how much they vary when blocks are drawn anew."""

import numpy as np
import pytest

from tasks.gates.sums import BLOCKS, DRAWS, BlockSums, LossSums, blocks_of, drawn_blocks
from tasks.score.stats import ReconstructionSums

N, D_OUT, D_SAE = 40, 5, 9


def made(seed: int = 0, noise: float = 0.4) -> tuple[BlockSums, np.ndarray, np.ndarray]:
    """Sums of 40 blocks of 50 rows, with the rows and what is rebuilt of them."""
    rng = np.random.default_rng(seed)
    text = np.random.default_rng(7)
    x, block = text.normal(2, 3, (N * 50, D_OUT)), np.repeat(np.arange(N), 50)
    hard = text.exponential(size=N)[block, None]  # some blocks are for whoever rebuilds them
    x_hat = x + noise * hard * rng.normal(size=x.shape)
    fires = rng.random((N, D_SAE)) < np.linspace(0, 1, D_SAE)
    per_block = [
        np.array([part[block == b].sum(0) for b in range(N)]) for part in (x, (x**2).sum(1), ((x - x_hat) ** 2).sum(1))
    ]
    active = rng.poisson(150, N).astype(np.int64)
    return BlockSums(np.full(N, 50), *per_block, active, fires), x, x_hat


def test_metrics_are_those_that_scoring_defines() -> None:
    sums, x, x_hat = made()
    found = sums.estimates(target_l0=2.5)
    assert found["fvu"].value == pytest.approx(ReconstructionSums.of(x, x_hat).fvu)
    assert sums.l0 == pytest.approx(sums.active.sum() / len(x))
    assert found["l0_error"].value == pytest.approx(abs(sums.l0 / 2.5 - 1))
    assert found["never_firing"].value == pytest.approx(1 / D_SAE)


def test_draws_vary_as_much_as_means_of_blocks_do() -> None:
    sums, _, _ = made()
    of_l0 = 1 + sums.estimates(target_l0=1e-3)["l0_error"].draws
    assert of_l0.shape == (DRAWS,)
    expected = (sums.active / 50).std(ddof=1) / N**0.5
    assert of_l0.std() * 1e-3 == pytest.approx(expected, rel=0.2)


def test_what_is_hard_for_both_is_no_noise_of_their_difference() -> None:
    one, other = made(1, noise=0.4)[0], made(2, noise=0.41)[0]
    a, b = one.estimates(3)["fvu"], other.estimates(3)["fvu"]
    assert np.array_equal(a.draws, one.estimates(3)["fvu"].draws)
    assert (a.draws - b.draws).std() < 0.5 * (a.draws.std() ** 2 + b.draws.std() ** 2) ** 0.5


def test_recovered_loss_is_a_ratio_of_sums_and_not_a_mean_of_ratios() -> None:
    losses = LossSums(np.array([10.0, 100.0]), np.array([12.0, 110.0]), np.array([20.0, 300.0]))
    assert losses.recovered().value == pytest.approx((320 - 122) / (320 - 110))


def test_blocks_follow_each_other_and_are_about_equal() -> None:
    blocks = blocks_of(np.arange(1000))
    assert (np.diff(blocks) >= 0).all()
    counts = np.bincount(blocks)
    assert (len(counts), counts.max() - counts.min()) == (BLOCKS, 1)
    assert blocks_of(np.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_draws_are_always_the_same_and_take_as_many_blocks_as_there_are() -> None:
    assert np.array_equal(drawn_blocks(9), drawn_blocks(9))
    assert (drawn_blocks(9).sum(axis=1) == 9).all()
