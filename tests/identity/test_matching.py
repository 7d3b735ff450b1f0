"""Which latents are found again: planted ones, and none by chance."""

import math

import numpy as np
import pytest
import torch

from tasks.identity.assign import _cheapest
from tasks.identity.comparison import Comparison, Side
from tasks.identity.directions import unit_directions
from tasks.identity.matching import matching, reordered
from tests.identity.planted import D_SAE, activity, built, compared, dictionary, normal, reborn, rows_of, shuffled

LOST = D_SAE // 20


def test_a_permuted_copy_is_the_same_whole() -> None:
    a, order = dictionary(), shuffled(D_SAE)
    b = built(a.W_enc[:, order].contiguous(), a.W_dec[order])
    found = matching(compared(a, b, rows_of(a)))
    assert found.shares == {"same": 1, "drifted": 0, "split": 0, "died": 0, "merged": 0, "born": 0}
    assert found.b.partner.tolist() == order.tolist()
    assert found.a.partner.tolist() == order.argsort().tolist()
    assert found.cosine == pytest.approx(1, abs=1e-6)


def test_planted_latents_are_found_and_deleted_and_added_ones_told() -> None:
    a, kept = dictionary(), shuffled(D_SAE)[: D_SAE - LOST]
    found = matching(compared(a, reborn(a, kept, cosine=0.95, born=LOST, seed=3), rows_of(a)))
    assert (found.b.partner[: len(kept)] == kept.numpy()).mean() >= 0.99
    assert np.flatnonzero(found.b.kind == "born").tolist() == list(range(len(kept), D_SAE))
    assert set(np.flatnonzero(found.a.kind == "died")) == set(range(D_SAE)) - set(kept.tolist())
    assert found.shares["died"] == found.shares["born"] == 0.05


def test_an_unrelated_dictionary_has_nothing_in_common_and_looks_like_chance() -> None:
    a, b = dictionary(0), dictionary(1)
    found = matching(compared(a, b, rows_of(a)))
    assert found.shares == {"same": 0, "drifted": 0, "split": 0, "died": 1, "merged": 0, "born": 1}
    assert found.null == pytest.approx(math.sqrt(2 * math.log(D_SAE) / a.d_in), rel=0.2)
    assert found.cosine == pytest.approx(found.null, abs=0.03)


def test_saes_of_different_widths_and_architectures_are_matched() -> None:
    a = dictionary()
    wider = built(torch.cat([a.W_enc, dictionary(1).W_enc], dim=1), torch.cat([a.W_dec, dictionary(1).W_dec]), arch="l1")
    wider.b_enc.data -= 0.45  # as sparse as the other
    found = matching(compared(a, wider, rows_of(a)))
    assert found.a.partner.tolist() == list(range(D_SAE))
    assert found.b.count("born") == D_SAE
    back = matching(compared(wider, a, rows_of(a)))
    assert back.b.partner.tolist() == list(range(D_SAE))
    assert back.a.count("died") == D_SAE


def test_correlations_are_pearsons_in_blocks_and_in_pairs() -> None:
    a, b = dictionary(0), dictionary(1)
    x = rows_of(a)
    comparison = compared(a, b, x)
    expected = np.corrcoef(a.encode(torch.from_numpy(x)).numpy(), b.encode(torch.from_numpy(x)).numpy(), rowvar=False)
    expected = expected[:D_SAE, D_SAE:]
    of_a, of_b = np.arange(3, D_SAE, 2), np.arange(0, D_SAE, 3)
    got = np.concatenate([block.R for block in comparison.blocks(of_a, of_b)])
    np.testing.assert_allclose(got, expected[of_a][:, of_b], atol=2e-5)
    pairs = comparison.pairs(of_b, of_b)
    np.testing.assert_allclose(pairs.R, expected[of_b, of_b], atol=2e-5)
    np.testing.assert_allclose(pairs.C_d, (a.W_dec[of_b] * b.W_dec[of_b]).sum(1), atol=1e-5)


def quiet(latents: list[int], cosine: float) -> tuple[Comparison, list[int]]:
    """A and a copy of it in which some latents, and their copies, never fire; decoders at a cosine to A's."""
    a = dictionary()
    b = reborn(a, torch.arange(D_SAE), cosine, born=0, seed=7)
    a.b_enc.data[latents] = b.b_enc.data[latents] = -100.0
    return compared(a, b, rows_of(dictionary())), latents


@pytest.mark.parametrize(("cosine", "kind"), [(0.97, "same"), (0.8, "drifted"), (0.5, "died")])
def test_of_latents_that_never_fire_the_decoder_alone_decides(cosine: float, kind: str) -> None:
    comparison, latents = quiet([4, 9], cosine)
    found = matching(comparison)
    assert found.a.kind[latents].tolist() == [kind, kind]
    assert not found.a.evidence.measured[latents].any()
    assert found.a.n_active[latents].tolist() == [0, 0]


def test_a_latent_that_never_fires_does_not_continue_one_that_does() -> None:
    a, b = dictionary(), dictionary()
    b.b_enc.data[[4, 9]] = -100.0
    found = matching(compared(a, b, rows_of(a)))
    assert found.a.kind[[4, 9]].tolist() == ["died", "died"]
    assert found.b.kind[[4, 9]].tolist() == ["born", "born"]
    assert found.a.count("same") == D_SAE - 2


def test_a_latent_that_fires_elsewhere_but_writes_the_same_has_drifted() -> None:
    a, b = dictionary(), dictionary()
    b.W_enc.data[:, 4] = a.W_enc.data[:, 4] + 0.9 * normal(64, seed=1) / 8
    found = matching(compared(a, b, rows_of(a)))
    assert found.a.kind[4] == "drifted"
    assert found.a.evidence.R[4] < 0.9 < found.a.evidence.C_d[4]


def test_two_latents_with_one_nearest_do_not_both_get_it() -> None:
    a = dictionary()
    twin = built(torch.cat([a.W_enc, a.W_enc[:, :5]], dim=1), torch.cat([a.W_dec, a.W_dec[:5]]))
    found = matching(compared(twin, a, rows_of(a)))
    given = found.a.partner[found.a.partner >= 0]
    assert len(set(given.tolist())) == len(given) == D_SAE
    assert found.a.count("died") == 5


def test_the_assignment_matches_as_many_as_can_be_at_the_least_cost() -> None:
    # 0 is nearest to both; alone it would be taken by 0, and 1 would have nobody.
    a, b = _cheapest(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([1.0, 1.3, 1.1]))
    assert sorted(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 1), (1, 0)]
    none = np.zeros(0, np.int64)
    assert [len(found) for found in _cheapest(none, none, np.zeros(0))] == [0, 0]


def test_a_crosscoders_hooks_weigh_alike() -> None:
    W_dec = normal(20, 8, seed=0)
    loud = torch.cat([torch.ones(4), torch.full((4,), 1000.0)])
    a = built((W_dec / loud).T.contiguous(), W_dec * loud)
    quiet_half = W_dec.clone()
    quiet_half[:, :4] = normal(20, 4, seed=1)
    b = built((quiet_half / loud).T.contiguous(), quiet_half * loud)
    x = rows_of(a, 400)
    scale = (1 / loud).double().numpy()
    sides = [[Side(unit_directions(sae, factor), activity(sae, x)) for sae in (a, b)] for factor in (None, scale)]
    every = np.arange(20)
    raw, even = (Comparison(*pair).pairs(every, every).C_d for pair in sides)
    assert raw.min() > 0.999
    assert even.max() < 0.99
    torch.testing.assert_close(torch.from_numpy(even), torch.nn.functional.cosine_similarity(W_dec, quiet_half))


def test_a_b_in_another_order_has_the_same_relations() -> None:
    a, kept = dictionary(), shuffled(D_SAE)[: D_SAE - LOST]
    b, x = reborn(a, kept, cosine=0.95, born=LOST, seed=3), rows_of(a)
    order = shuffled(D_SAE, seed=4)
    moved = built(b.W_enc[:, order].contiguous(), b.W_dec[order])
    expected, got = matching(compared(a, moved, x)), reordered(matching(compared(a, b, x)), order.numpy())
    for side in ("a", "b"):
        one, other = getattr(expected, side), getattr(got, side)
        assert one.kind.tolist() == other.kind.tolist()
        assert one.partner.tolist() == other.partner.tolist()
        assert one.n_active.tolist() == other.n_active.tolist()
        np.testing.assert_allclose(one.evidence.C_d, other.evidence.C_d, atol=1e-6)
