from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import saemill
from tasks.sae.belonging import Belonging
from tests.score.conftest import MakeSAE
from tests.score.conftest import make_sae as make_sae

D, VOCABULARY, HOOK, OTHER = 16, 50, "model.layers.0", "model.layers.1.mlp"


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": VOCABULARY}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5))
    return llama.eval().requires_grad_(requires_grad=False)


@pytest.fixture
def token_ids() -> Tensor:
    return torch.randint(0, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))


def by_hand(model: Any, token_ids: Tensor, hook: str, change: Any) -> Tensor:
    """Logits, with a hook of PyTorch's own."""

    def after(_: Any, __: Any, output: Any) -> Any:
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    handle = model.get_submodule(hook).register_forward_hook(after)
    found: Tensor = model(token_ids).logits
    handle.remove()
    return found


@pytest.mark.parametrize("arch", ["topk", "l1"])
def test_the_model_goes_on_with_what_the_sae_rebuilds_and_is_itself_again(
    arch: str, model: Any, token_ids: Tensor, make_sae: MakeSAE
) -> None:
    sae, before = make_sae(arch, d_in=D), model(token_ids).logits
    with saemill.spliced(model, sae, HOOK):
        found = model(token_ids).logits
    torch.testing.assert_close(found, by_hand(model, token_ids, HOOK, sae), rtol=0, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-2)
    assert torch.equal(model(token_ids).logits, before)


def test_only_chosen_tokens_are_replaced(model: Any, token_ids: Tensor, make_sae: MakeSAE) -> None:
    sae, where = make_sae(d_in=D), torch.zeros(3, 7, dtype=torch.bool)
    before = model(token_ids).logits
    where[1, 4] = True
    with saemill.spliced(model, sae, HOOK, where=where):
        found = model(token_ids).logits
    expected = by_hand(model, token_ids, HOOK, lambda x: torch.where(where[..., None], sae(x), x))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert torch.equal(found[0], before[0])
    assert not torch.allclose(found[1, 4:], before[1, 4:], atol=1e-3)


def test_the_hook_is_the_saes_own_where_none_is_named(model: Any, token_ids: Tensor, make_sae: MakeSAE) -> None:
    sae = make_sae(d_in=D)
    with pytest.raises(saemill.InputError, match="does not say which hook"), saemill.spliced(model, sae):
        pass
    sae.belonging = Belonging(hooks=(HOOK,))
    with saemill.spliced(model, sae, HOOK):
        named = model(token_ids).logits
    with saemill.spliced(model, sae):
        assert torch.equal(model(token_ids).logits, named)


def test_a_transcoder_reads_one_hook_and_replaces_another(model: Any, token_ids: Tensor, make_sae: MakeSAE) -> None:
    sae = make_sae(d_in=D)
    sae.belonging = Belonging(hooks=(f"{OTHER}:input",), target_hook=OTHER)
    read: list[Tensor] = []
    handle = model.get_submodule(OTHER).register_forward_pre_hook(lambda _, given: read.append(given[0]))
    with saemill.spliced(model, sae):
        found = model(token_ids).logits
    handle.remove()
    expected = by_hand(model, token_ids, OTHER, lambda _: sae(read[0]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_hook_that_comes_too_late_is_refused(model: Any, token_ids: Tensor, make_sae: MakeSAE) -> None:
    late = saemill.spliced(model, make_sae(d_in=D), HOOK, reads="model.layers.2")
    with late, pytest.raises(saemill.InputError, match=f"comes to '{HOOK}' before 'model.layers.2'"):
        model(token_ids)


def test_gradients_pass_through_the_sae(model: Any, token_ids: Tensor, make_sae: MakeSAE) -> None:
    embedded = model.get_input_embeddings()(token_ids).detach().requires_grad_()
    with saemill.spliced(model, make_sae("l1", d_in=D), HOOK):
        model(inputs_embeds=embedded).logits.square().sum().backward()
    assert embedded.grad is not None
    assert bool(embedded.grad.any())


def test_a_mask_of_another_shape_and_a_crosscoder_are_refused(model: Any, token_ids: Tensor, make_sae: MakeSAE) -> None:
    sae = make_sae(d_in=D)
    with (
        saemill.spliced(model, sae, HOOK, where=torch.ones(2, dtype=torch.bool)),
        pytest.raises(saemill.InputError, match=r"expected was one true or false for each of 21 tokens"),
    ):
        model(token_ids)
    sae.belonging = Belonging(hooks=("a", "b"))
    with pytest.raises(saemill.InputError, match="crosscoder"), saemill.spliced(model, sae, HOOK):
        pass
