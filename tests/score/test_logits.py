from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
)

from tasks.encode import chunks
from tasks.score.logits import neighbours, promoted_and_suppressed, unembedding
from tests.scarce_memory import ScarceMemory

D, VOCABULARY = 16, 50
SIZES = {"intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY}


def llama() -> Any:
    sizes = SIZES | {"hidden_size": D}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))


def gemma() -> Any:
    sizes = SIZES | {"hidden_size": D, "head_dim": 8}
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(n_embd=D, n_layer=2, n_head=2, vocab_size=VOCABULARY))


def olmo() -> Any:
    """Its norm has no weight, centres, and is no nn.LayerNorm."""
    sizes = SIZES | {"hidden_size": D}
    return OlmoForCausalLM(OlmoConfig(**sizes, num_attention_heads=2, eos_token_id=1))


def final_norm(model: Any) -> Any:
    return model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm


@pytest.mark.parametrize("make", [llama, gemma, gpt2, olmo])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_rank_tokens_as_the_model_does_for_a_residual_stream_in_that_direction(make: Any, dtype: torch.dtype) -> None:
    """The norm divides by a scale and GPT-2's adds a bias; without the bias, both keep the order of the tokens."""
    torch.manual_seed(0)
    model = make().to(dtype).requires_grad_(requires_grad=False)
    norm = final_norm(model)
    if hasattr(norm, "weight"):
        norm.weight.copy_(torch.rand(D) - 0.3)
    W_dec = torch.randn(7, D) + 0.5
    promoted, suppressed = promoted_and_suppressed(W_dec, unembedding(model, D), 5)
    exact = model.float()
    truth = exact.get_output_embeddings()(final_norm(exact)(W_dec))
    if dtype == torch.float32:
        assert promoted.index.tolist() == truth.topk(5).indices.tolist()
        assert suppressed.index.tolist() == truth.topk(5, largest=False).indices.tolist()
    ratio = promoted.score / truth.gather(1, promoted.index)
    assert (ratio.std(1) / ratio.mean(1)).abs().max() < 0.05


def test_the_norm_weight_scales_the_decoder_row() -> None:
    model = llama().requires_grad_(requires_grad=False)
    model.model.norm.weight.copy_(torch.arange(1.0, D + 1))
    W_dec = torch.randn(3, D)
    head = unembedding(model, D)
    torch.testing.assert_close(head.rows(W_dec), W_dec * torch.arange(1.0, D + 1))
    promoted, _ = promoted_and_suppressed(W_dec, head, 4)
    expected = (W_dec * torch.arange(1.0, D + 1)) @ model.lm_head.weight.T
    torch.testing.assert_close(promoted.score, expected.topk(4).values)


@pytest.mark.parametrize("width", [15, 16])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_known_by_what_it_does_whatever_it_is_called(width: int, centred: bool, dtype: torch.dtype) -> None:
    class Bias(torch.nn.Module):  # neither the name nor the weight of a norm
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            there = x - x.mean(-1, keepdim=True) if centred else x
            return there * there.square().mean(-1, keepdim=True).rsqrt() * factor.to(dtype) + 3

    factor = torch.rand(width) + 0.5
    model = LlamaForCausalLM(LlamaConfig(**SIZES, hidden_size=width, head_dim=4, num_attention_heads=1)).to(dtype)
    model.model.norm = Bias()
    head = unembedding(model, width)
    assert head.centred is centred
    torch.testing.assert_close(head.norm_weight, factor, rtol=0.03, atol=0.03)


def test_what_is_more_than_a_norm_promotes_no_tokens() -> None:
    model = llama()
    model.model.norm = torch.nn.Linear(D, D)
    assert unembedding(model, D) is None


def test_chunks_of_latents_do_not_change_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    model, W_dec = llama(), torch.randn(50, D)
    whole = promoted_and_suppressed(W_dec, unembedding(model, D), 3)[0], neighbours(W_dec, 4)
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", 16)
    parts = promoted_and_suppressed(W_dec, unembedding(model, D), 3)[0], neighbours(W_dec, 4)
    for a, b in zip(whole, parts, strict=True):
        assert a.index.tolist() == b.index.tolist()


def test_there_is_no_unembedding_for_encoders_and_other_widths() -> None:
    sizes = {"hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": VOCABULARY}
    assert unembedding(BertModel(BertConfig(**sizes, num_attention_heads=2)), D) is None
    assert unembedding(llama(), D + 1) is None


def test_neighbours_are_the_others_of_highest_cosine() -> None:
    W_dec = torch.randn(20, 5) * torch.rand(20, 1)
    found = neighbours(W_dec, 3)
    unit = (W_dec / W_dec.norm(dim=1, keepdim=True)).double().numpy()
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    assert found.index.tolist() == np.argsort(-cosines, axis=1)[:, :3].tolist()
    np.testing.assert_allclose(found.score, np.sort(cosines, axis=1)[:, :-4:-1], atol=1e-6)


def test_neighbours_of_many_latents_are_found_without_all_cosines_at_once() -> None:
    W_dec = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0))
    W_dec[4095] = 2 * W_dec[3]
    with ScarceMemory(2 * 4096 * 4096) as memory:  # bytes: half of all cosines
        found = neighbours(W_dec, 2)
    assert memory.refused == 0
    assert (found.index[3, 0], found.index[4095, 0]) == (4095, 3)


def test_two_latents_have_one_neighbour_each() -> None:
    assert neighbours(torch.eye(2), 5).index.tolist() == [[1], [0]]
    assert neighbours(torch.ones(1, 3), 5).index.shape == (1, 0)
