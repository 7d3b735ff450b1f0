from dataclasses import asdict
from itertools import permutations

import numpy as np
import pytest

from tasks.score.truth import FiringSums, Pairs, Recovery, TruthRows, match, nearest, recovery

FEATURES = np.eye(4, 3, dtype=np.float32)
FEATURES[3] = [0.6, 0.8, 0.0]


def best_sum_by_trying_all(cosines: np.ndarray) -> float:
    few, many = sorted(cosines.shape)
    wide = cosines if cosines.shape[0] == few else cosines.T
    return max(sum(wide[i, j] for i, j in enumerate(chosen)) for chosen in permutations(range(many), few))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("d_sae", "n_features"), [(3, 6), (6, 3), (5, 5), (1, 4)])
def test_no_other_pairing_has_a_larger_sum_of_cosines(seed: int, d_sae: int, n_features: int) -> None:
    draw = np.random.default_rng(seed)
    W_dec, directions = draw.normal(size=(d_sae, 4)), draw.normal(size=(n_features, 4))
    norms = np.linalg.norm(W_dec, axis=1)[:, None] * np.linalg.norm(directions, axis=1)
    pairs = match(W_dec, directions)
    assert pairs.cosines.sum() == pytest.approx(best_sum_by_trying_all(np.abs(W_dec @ directions.T) / norms))
    assert len({*pairs.latents.tolist()}) == len({*pairs.features.tolist()}) == min(d_sae, n_features)


def test_two_latents_of_one_feature_are_matched_with_two_but_are_nearest_to_one() -> None:
    W_dec = np.array([[2.0, 0.0, 0.0], [1.0, 0.1, 0.0]], dtype=np.float32)
    assert sorted(match(W_dec, FEATURES[:2]).features.tolist()) == [0, 1]
    assert nearest(W_dec, FEATURES[:2]).features.tolist() == [0, 0]


def test_neither_size_nor_sign_of_a_decoder_row_matters_and_a_row_of_zeros_matches_nothing() -> None:
    pairs = match(np.stack([-3 * FEATURES[1], 0 * FEATURES[0]]), FEATURES[:2])
    assert pairs.features.tolist() == [1, 0]
    np.testing.assert_allclose(pairs.cosines, [1, 0], atol=1e-12)


def test_f1_counts_rows_on_which_both_fire() -> None:
    active = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], dtype=bool)
    fires = np.array([[0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=bool)
    pairs = Pairs(np.array([0, 1]), np.array([1, 2]), np.ones(2))
    sums = FiringSums.of(active, fires, pairs)
    precision, recall = 2 / 3, 2 / 3
    assert sums.f1.tolist() == [pytest.approx(2 * precision * recall / (precision + recall)), 0.0]


def drawn(n: int) -> TruthRows:
    draw = np.random.default_rng(3)
    codes = draw.exponential(size=(n, 4)).astype(np.float32) * (draw.random((n, 4)) < 0.4)
    fires = (codes > 0) ^ (draw.random((n, 4)) < 0.1)
    x = codes @ FEATURES
    return TruthRows(x, codes, x + 0.1 * draw.normal(size=x.shape).astype(np.float32), fires)


def test_pieces_add_up_to_the_whole() -> None:
    rows = drawn(90)
    pieces = [TruthRows(*(part[cut] for part in rows)) for cut in (slice(0, 20), slice(20, 21), slice(21, 90))]
    apart, together = recovery(FEATURES, FEATURES, pieces), recovery(FEATURES, FEATURES, [rows])
    for name in Recovery.__dataclass_fields__:
        assert getattr(apart, name) == pytest.approx(getattr(together, name), rel=1e-9)


def test_a_dictionary_of_the_features_themselves_recovers_all() -> None:
    rows = drawn(60)
    found = asdict(recovery(FEATURES, FEATURES, [rows._replace(x_hat=rows.x, fires=rows.codes > 0)]))
    assert found.pop("dead") == 0
    assert found.pop("l0") == (rows.codes > 0).sum() / 60
    assert found == dict.fromkeys(("mcc", "f1", "f1_nearest", "uniqueness", "explained_variance"), pytest.approx(1))


def test_two_latents_of_one_feature_and_a_dead_one_are_seen() -> None:
    rows = drawn(200)
    W_dec = FEATURES[[0, 0, 2, 3]]
    codes = rows.codes[:, [0, 0, 2, 3]] * np.array([1, 1, 1, 0], dtype=np.float32)
    found = recovery(W_dec, FEATURES, [rows._replace(codes=codes, fires=rows.codes > 0)])
    assert found.uniqueness == 0.75
    assert found.dead == 0.25
    assert found.f1_nearest == pytest.approx(0.75)  # three right ones, of which two are of one feature, and one silent
    assert found.f1 < 0.7  # one of the two is matched with a feature that it does not detect
    assert found.mcc == pytest.approx((1 + 0.6 + 1 + 1) / 4, abs=0.2)
