import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.score.baselines import Fit, fit
from tasks.score.linear import linear_baselines, linear_map, reduced_rank
from tests.score.conftest import MakeSAE

D_IN, D_OUT = 6, 4


def pairs(n: int, seed: int = 0) -> Tensor:
    """Input and target side by side: y is a linear map of x, and noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D_IN, generator=generator) * torch.linspace(2, 0.3, D_IN) + 5
    mix = torch.randn(D_IN, D_OUT, generator=torch.Generator().manual_seed(9))
    return torch.cat([x, x @ mix + 0.5 * torch.randn(n, D_OUT, generator=generator) - 3], dim=1)


def fitted(rows: Tensor) -> Fit:
    return fit([rows], len(rows), 0)


def least_squares(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(0)
    return np.linalg.lstsq(centred[:, :D_IN], centred[:, D_IN:], rcond=None)[0]


def test_the_map_is_that_of_least_squares() -> None:
    rows = pairs(200)
    found = linear_map(fitted(rows).covariance, D_IN)
    np.testing.assert_allclose(found, least_squares(rows.double().numpy()), rtol=1e-8)


def test_of_dependent_features_the_smallest_map_is_taken() -> None:
    rows = pairs(200).double()
    rows[:, 1] = rows[:, 0]
    found = linear_map(fitted(rows).covariance, D_IN)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    np.testing.assert_allclose(found, least_squares(rows.numpy()), rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 4, 9])
def test_the_map_of_lower_rank_leaves_the_least_error_of_that_rank(rank: int) -> None:
    rows = pairs(300).double()
    training = fitted(rows)
    found = reduced_rank(linear_map(training.covariance, D_IN), training.covariance, rank)
    centred = (rows - rows.mean(0)).numpy()
    x, y = centred[:, :D_IN], centred[:, D_IN:]
    predicted = x @ least_squares(rows.numpy())
    u, s, v = np.linalg.svd(predicted, full_matrices=False)
    best = np.square(y - u[:, :rank] * s[:rank] @ v[:rank]).sum()
    assert np.square(y - x @ found.numpy()).sum() == pytest.approx(best, rel=1e-9)
    assert torch.linalg.matrix_rank(found) == min(rank, D_OUT)


def test_all_are_fvus_of_the_same_targets(make_sae: MakeSAE) -> None:
    sae, rows = make_sae("l1", d_in=D_IN, d_out=D_OUT), pairs(80, seed=1)
    found = linear_baselines(sae, fitted(pairs(500)), rows, k=2)
    x, y = rows[:, :D_IN], rows[:, D_IN:].double()
    deviation = (y - y.mean(0)).square().sum()
    assert found["mean"]["fvu"] == 1
    assert found["sae_same_rows"]["fvu"] == pytest.approx(float((y - sae(x).double()).square().sum() / deviation), rel=1e-6)
    assert found["linear"]["fvu"] < found["linear_rank_k"]["fvu"] < 1
    assert found["linear"]["fvu"] == pytest.approx(0.5**2 * D_OUT * 80 / float(deviation), rel=0.3)
    assert found["linear_rank_k"]["components"] == 2
