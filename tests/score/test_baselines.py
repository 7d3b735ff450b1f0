import numpy as np
import pytest
import torch

from tasks.activations.reader import Split
from tasks.score import baselines as module
from tasks.score.baselines import (
    Fit,
    affordable_rows,
    baselines,
    component_error,
    dictionary_error,
    fit,
    fit_training_rows,
    principal_components,
    random_directions,
)
from tests.score.conftest import MakeSAE, StoreRows, text_rows

D = 8


def rows(n: int, seed: int = 0) -> torch.Tensor:
    """Rows of falling variance by feature, around a large mean."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=generator) * torch.linspace(3, 0.2, D) + 50


def fitted(train: torch.Tensor, n_directions: int = 20, parts: int = 3) -> Fit:
    return fit(train.tensor_split(parts), len(train), n_directions)


def naive_dictionary_error(x: np.ndarray, directions: np.ndarray, k: int) -> float:
    total = 0.0
    for row in x:
        best = np.argsort(-np.abs(directions @ row))[:k]
        chosen = directions[best].T
        weights, *_ = np.linalg.lstsq(chosen, row, rcond=None)
        total += float(np.square(row - chosen @ weights).sum())
    return total


def test_a_fit_in_parts_is_the_textbook_mean_and_covariance() -> None:
    train = rows(100)
    for parts in (1, 7):
        found = fitted(train, parts=parts)
        np.testing.assert_allclose(found.mean, train.double().mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(train.double().numpy().T, bias=True), atol=1e-9)


def test_directions_are_distinct_centred_training_rows() -> None:
    train = rows(100)
    found = fitted(train, 20)
    unit = torch.nn.functional.normalize(train.double() - train.double().mean(0), dim=1)
    best = (found.directions.double() @ unit.T).max(1)
    assert best.values.min() > 1 - 1e-6
    assert len(set(best.indices.tolist())) == 20
    assert fitted(train, 20, parts=9).directions.equal(found.directions)
    assert len(fitted(train, 1000).directions) == 100


@pytest.mark.parametrize("k", [1, 3, 8, 20])
def test_pca_is_the_truncated_svd(k: int) -> None:
    train = rows(200)
    found = fitted(train)
    held_out = rows(50, seed=1).double() - found.mean
    _, _, basis = np.linalg.svd(train.double().numpy() - found.mean.numpy(), full_matrices=False)
    projected = held_out.numpy() @ basis[:k].T @ basis[:k]
    expected = np.square(held_out.numpy() - projected).sum()
    assert component_error(held_out, principal_components(found, k)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("chosen_numbers", [1, 10**6])
def test_dictionary_error_is_that_of_least_squares_row_by_row(
    k: int, chosen_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHOSEN_NUMBERS", chosen_numbers)
    x, directions = rows(30).double() - 50, random_directions(25, D)
    expected = naive_dictionary_error(x.numpy(), directions.double().numpy(), k)
    assert dictionary_error(x, directions, k) == pytest.approx(expected, rel=1e-6)


def test_equal_directions_do_not_break_least_squares() -> None:
    x = rows(10).double() - 50
    directions = random_directions(1, D).expand(6, D)
    expected = naive_dictionary_error(x.numpy(), directions.double().numpy(), 1)
    assert dictionary_error(x, directions, 4) == pytest.approx(expected, rel=1e-6)


def test_directions_that_span_everything_leave_no_error() -> None:
    x = rows(20).double() - 50
    assert dictionary_error(x, random_directions(40, D), D) == pytest.approx(0, abs=1e-6)


def test_training_rows_rebuild_themselves_from_one_direction() -> None:
    train = rows(40)
    found = fitted(train, 1000)
    assert dictionary_error(train.double() - found.mean, found.directions, 1) == pytest.approx(0, abs=1e-6)


def test_all_baselines_are_fvus_of_the_same_rows(make_sae: MakeSAE) -> None:
    sae, train, held_out = make_sae(d_in=D), rows(300), rows(100, seed=1)
    found = baselines(sae, fitted(train, sae.d_sae), held_out, k=3)
    deviation = (held_out.double() - held_out.double().mean(0)).square().sum()
    assert found["mean"]["fvu"] == 1
    sae_error = (held_out.double() - sae(held_out).double()).square().sum()
    assert found["sae_same_rows"]["fvu"] == pytest.approx(float(sae_error / deviation), rel=1e-6)
    assert found["pca"]["components"] == found["training_rows"]["k"] == found["random_directions"]["k"] == 3
    assert found["random_directions"]["directions"] == sae.d_sae
    assert all(0 < found[name]["fvu"] < 1 for name in ("pca", "random_directions", "training_rows"))


def test_a_dictionary_smaller_than_k_is_used_whole(make_sae: MakeSAE) -> None:
    sae, train = make_sae(d_in=D), rows(2)
    found = baselines(sae, fitted(train, sae.d_sae, parts=1), rows(30, seed=1), k=5)
    assert found["training_rows"] | {"fvu": 0} == {"fvu": 0, "k": 2, "directions": 2}


def test_rows_are_fewer_only_where_k_is_large() -> None:
    assert affordable_rows(32, 576) > 500_000
    assert 256 < affordable_rows(576, 576) < 8192


def test_training_rows_are_sampled_over_all_shards(make_sae: MakeSAE, store_rows: StoreRows) -> None:
    shards = [text_rows(20, first=first) for first in (0, 20, 40)]
    split = Split(store_rows(shards, shards, row_group_rows=10), "layer", "train")
    whole = fit_training_rows(split, 5)
    np.testing.assert_allclose(whole.mean, np.concatenate([s.activation for s in shards]).astype(float).mean(0))
    some = fit_training_rows(split, 10**6, wanted=split.rows // 4)
    assert split.rows // 4 <= len(some.directions) <= split.rows // 4 + 30
