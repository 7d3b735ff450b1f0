"""Latents matched between two SAEs: what must be found again, and what must not."""

import numpy as np
import pytest
import torch

from tasks.encode import chunks
from tasks.encode.cosines import cosines, largest_cosines
from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.scaling import Weights
from tasks.score import stability as module
from tasks.score.stability import SHARED, partners, shared_fraction, stability
from tests.scarce_memory import ScarceMemory


def random_sae(seed: int, d_sae: int = 200, d_in: int = 64) -> SparseAutoencoder:
    draw = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(d_sae, d_in, generator=draw)
    W_enc = (W_dec + 0.3 * torch.randn(d_sae, d_in, generator=draw)).T.contiguous()
    return built(W_enc, W_dec)


def built(W_enc: torch.Tensor, W_dec: torch.Tensor) -> SparseAutoencoder:
    d_in, d_sae = W_enc.shape
    weights = Weights(W_enc=W_enc, b_enc=torch.zeros(d_sae), W_dec=W_dec, b_dec=torch.zeros(d_in))
    return SparseAutoencoder(SAEConfig(d_in=d_in, d_sae=d_sae, k=3), weights).requires_grad_(requires_grad=False)


def test_a_permuted_copy_of_other_scale_is_found_again_whole() -> None:
    a = random_sae(0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(9))
    b = built(2 * a.W_enc[:, order], a.W_dec[order] / 2)
    found = stability(a, b)
    assert found.shared == 1
    assert found.mmcs == pytest.approx(1, abs=1e-6)


def test_independent_random_saes_share_about_nothing() -> None:
    found = stability(random_sae(0), random_sae(1))
    assert found.shared == 0
    assert 0.2 < found.mmcs < 0.45  # the largest of 200 cosines with standard deviation 1/8


def test_half_a_copy_is_half_shared_in_either_order() -> None:
    a, c = random_sae(0), random_sae(1)
    b = built(torch.cat([a.W_enc[:, :100], c.W_enc[:, 100:]], dim=1), torch.cat([a.W_dec[:100], c.W_dec[100:]]))
    assert stability(a, b).shared == stability(b, a).shared == 0.5
    assert stability(a, b).mmcs == pytest.approx(stability(b, a).mmcs)


def test_latents_whose_encoders_have_changed_places_are_not_shared() -> None:
    a = random_sae(0)
    assert stability(a, built(a.W_enc.roll(1, dims=1), a.W_dec)).shared == 0


def test_both_cosines_must_be_above_the_threshold() -> None:
    one, low = torch.eye(3), torch.eye(3) * torch.tensor([1.0, SHARED - 0.01, SHARED + 0.01])
    assert shared_fraction(one, low) == shared_fraction(low, one) == pytest.approx(2 / 3)


def test_partners_make_the_sum_largest_and_not_each_pair() -> None:
    assert partners(torch.tensor([[0.9, 0.8], [0.85, 0.1]])).tolist() == [1, 0]


def test_too_many_latents_are_not_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LATENTS", 100)
    found = stability(random_sae(0), random_sae(0))
    assert found.shared is None
    assert found.mmcs == pytest.approx(1)


def test_the_largest_cosines_of_many_latents_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", 48)
    a, b = random_sae(0), random_sae(1)
    expected = cosines(a.W_dec, b.W_dec)
    of_a, of_b = largest_cosines(a.W_dec, b.W_dec)
    torch.testing.assert_close(of_a, expected.amax(dim=1))
    torch.testing.assert_close(of_b, expected.amax(dim=0))


def test_too_many_latents_are_never_held_against_each_other_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LATENTS", 4095)
    a = random_sae(0, d_sae=4096, d_in=8)
    with ScarceMemory(2 * 4096 * 4096) as memory:  # bytes: half of all cosines
        found = stability(a, a)
        assert memory.refused == 0
        assert found.mmcs == pytest.approx(1)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            cosines(a.W_dec, a.W_dec)


def test_saes_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[64, 200, 64\] and \[64, 100, 64\] cannot be matched"):
        stability(random_sae(0), random_sae(0, d_sae=100))


def test_a_latent_without_weights_shares_nothing() -> None:
    a = random_sae(0, d_sae=4)
    dead = built(a.W_enc * torch.tensor([1.0, 1.0, 1.0, 0.0]), a.W_dec * torch.tensor([[1.0], [1.0], [1.0], [0.0]]))
    found = stability(a, dead)
    assert found.shared == 0.75
    assert np.isfinite(found.mmcs)
