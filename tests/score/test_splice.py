from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.scaling import Weights
from tasks.score.splice import SpliceSums, splice
from tests.score.conftest import MakeSAE

D, VOCABULARY, HOOK = 16, 50, "model.layers.0"


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": VOCABULARY}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5))
    return llama.eval().requires_grad_(requires_grad=False)


@pytest.fixture
def token_ids() -> Tensor:
    return torch.randint(0, VOCABULARY, (5, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def kept() -> Tensor:
    mask = torch.rand(5, 12, generator=torch.Generator().manual_seed(2)) < 0.8
    mask[:, 0] = False
    return mask


MEAN = torch.linspace(-1, 1, D)


def naive(model: Any, token_ids: Tensor, kept: Tensor, change: Any) -> tuple[float, Tensor]:
    """Summed cross-entropy and log-probabilities in float64, all at once, by a hook of our own."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        hidden = output if isinstance(output, Tensor) else output[0]
        new = torch.where(kept[..., None], change(hidden), hidden)
        return new if isinstance(output, Tensor) else (new, *output[1:])

    handle = model.get_submodule(HOOK).register_forward_hook(hook)
    log_p = model(token_ids).logits.double().log_softmax(-1)[:, :-1]
    handle.remove()
    return float(-log_p.gather(2, token_ids[:, 1:, None]).sum()), log_p


def test_sums_agree_with_a_naive_computation(model: Any, make_sae: MakeSAE, token_ids: Tensor, kept: Tensor) -> None:
    sae = make_sae(d_in=D)
    found = splice(model, HOOK, sae, MEAN, token_ids, kept)
    original, log_p = naive(model, token_ids, kept, lambda x: x)
    spliced, log_q = naive(model, token_ids, kept, lambda x: sae(x.flatten(0, 1)).view_as(x))
    assert found.tokens == 5 * 11
    assert found.original == pytest.approx(original, rel=1e-5)
    assert found.sae == pytest.approx(spliced, rel=1e-5)
    assert found.zero == pytest.approx(naive(model, token_ids, kept, torch.zeros_like)[0], rel=1e-5)
    assert found.mean == pytest.approx(naive(model, token_ids, kept, MEAN.expand_as)[0], rel=1e-5)
    assert found.kl == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), rel=1e-4)


def test_a_perfect_sae_recovers_everything(model: Any, token_ids: Tensor, kept: Tensor) -> None:
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    weights = Weights(W_enc=both.T.clone(), b_enc=torch.zeros(2 * D), W_dec=both, b_dec=torch.zeros(D))
    identity = SparseAutoencoder(SAEConfig(arch="l1", d_sae=2 * D), weights)
    summary = splice(model, HOOK, identity, MEAN, token_ids, kept).summary()
    assert summary["delta_nats"] == pytest.approx(0, abs=1e-6)
    assert summary["kl"] == pytest.approx(0, abs=1e-6)
    assert summary["recovered_vs_mean"] == pytest.approx(1, abs=1e-5)
    assert summary["recovered_vs_zero"] == pytest.approx(1, abs=1e-5)


def test_where_nothing_is_kept_nothing_changes(model: Any, make_sae: MakeSAE, token_ids: Tensor, kept: Tensor) -> None:
    found = splice(model, HOOK, make_sae(d_in=D), MEAN, token_ids, torch.zeros_like(kept))
    assert found.sae == found.zero == found.mean == found.original
    assert found.kl == 0
    assert found.summary()["recovered_vs_mean"] is None


def test_the_model_is_left_as_it_was(model: Any, make_sae: MakeSAE, token_ids: Tensor, kept: Tensor) -> None:
    before = model(token_ids).logits
    splice(model, HOOK, make_sae(d_in=D), MEAN, token_ids, kept)
    torch.testing.assert_close(model(token_ids).logits, before, rtol=0, atol=0)


def test_sequences_in_parts_add_to_the_whole(model: Any, make_sae: MakeSAE, token_ids: Tensor, kept: Tensor) -> None:
    sae = make_sae(d_in=D)
    whole = splice(model, HOOK, sae, MEAN, token_ids, kept).summary()
    parts = [splice(model, HOOK, sae, MEAN, token_ids[rows], kept[rows]) for rows in (slice(0, 2), slice(2, 5))]
    for name, value in (parts[0] + parts[1]).summary().items():
        assert value == pytest.approx(whole[name], rel=1e-5)


INPUT, OUTPUT = "model.layers.1.mlp:input", "model.layers.1.mlp"


def transcoder(make_sae: MakeSAE) -> SparseAutoencoder:
    """From D features to D others, with a path past the latents."""
    sae = make_sae(d_in=D)
    skip = torch.randn(D, D, generator=torch.Generator().manual_seed(3)) / 4
    weights = Weights(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, {"W_skip": skip})
    return SparseAutoencoder(replace(sae.config, skip=True), weights).requires_grad_(requires_grad=False)


def test_a_transcoder_takes_the_place_of_what_it_rebuilds(
    model: Any, make_sae: MakeSAE, token_ids: Tensor, kept: Tensor
) -> None:
    sae = transcoder(make_sae)
    found = splice(model, OUTPUT, sae, MEAN, token_ids, kept, reads=INPUT)
    assert found is not None

    def take_over(module: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where(kept[..., None], sae(args[0].flatten(0, 1)).view_as(output), output)

    handle = model.get_submodule(OUTPUT).register_forward_hook(take_over)
    log_p = model(token_ids).logits.double().log_softmax(-1)[:, :-1]
    handle.remove()
    assert found.sae == pytest.approx(float(-log_p.gather(2, token_ids[:, 1:, None]).sum()), rel=1e-5)
    zero = splice(model, OUTPUT, make_sae(d_in=D), MEAN, token_ids, kept)
    assert (found.zero, found.mean, found.original) == (zero.zero, zero.mean, zero.original)


def test_a_transcoder_that_is_the_mlp_itself_recovers_everything(
    model: Any, make_sae: MakeSAE, token_ids: Tensor, kept: Tensor
) -> None:
    mlp, itself = deepcopy(model.get_submodule(OUTPUT)), make_sae("l1", d_in=D)
    itself.forward = mlp.forward
    summary = splice(model, OUTPUT, itself, MEAN, token_ids, kept, reads=INPUT).summary()
    assert summary["delta_nats"] == pytest.approx(0, abs=1e-6)
    assert summary["recovered_vs_mean"] == pytest.approx(1, abs=1e-5)


def test_what_is_read_too_late_is_not_spliced(
    model: Any, make_sae: MakeSAE, token_ids: Tensor, kept: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    before = model(token_ids).logits
    assert splice(model, HOOK, make_sae(d_in=D), MEAN, token_ids, kept, reads=OUTPUT) is None
    assert f"the forward pass comes to {HOOK} before {OUTPUT}" in caplog.text
    torch.testing.assert_close(model(token_ids).logits, before, rtol=0, atol=0)


def test_recovered_shares_are_those_of_the_definition() -> None:
    summary = SpliceSums(tokens=10, original=30.0, sae=32.0, zero=70.0, mean=50.0, kl=1.5).summary()
    assert summary["original"] == 3
    assert summary["delta_nats"] == pytest.approx(0.2)
    assert summary["recovered_vs_zero"] == pytest.approx(38 / 40)
    assert summary["recovered_vs_mean"] == pytest.approx(18 / 20)
    assert summary["kl"] == pytest.approx(0.15)
