import collections
import contextlib

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from tasks.errors import InputError
from tasks.lm.activation import first, with_first
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import capture, hook_names, hook_width, list_hooks, parse_hook, prune_after, replace
from tasks.lm.load import load_skeleton
from tasks.lm.prune import _probe_tokens

LAYER_1 = {"llama": "model.layers.1", "gpt2": "transformer.h.1", "bert": "encoder.layer.1"}
MODELS = sorted(LAYER_1)


def calls(model):
    """Names of the modules that are called from now on."""
    names = []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda _, __, name=name: names.append(name))
    return names


@pytest.mark.parametrize("name", MODELS)
def test_a_layers_output_is_the_hidden_state_of_the_whole_model(tiny, token_ids, name):
    model = tiny(name)
    with torch.no_grad():
        hidden = model(token_ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(capture(model, [LAYER_1[name]], token_ids)[LAYER_1[name]], hidden[2], rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_runs_after_the_last_hook(tiny, token_ids, name):
    model = tiny(name)
    called = calls(model)
    capture(model, [LAYER_1[name]], token_ids)
    stem = LAYER_1[name].removesuffix("1")
    assert any(module.startswith(f"{stem}1.") for module in called)
    assert not any(module.startswith((f"{stem}2", f"{stem}3", "lm_head", "model.norm")) for module in called)


def test_a_layers_input_is_the_layer_befores_output_and_the_layer_does_not_run(tiny, token_ids):
    model = tiny("llama")
    expected = capture(model, ["model.layers.1"], token_ids)["model.layers.1"]
    called = calls(model)
    captured = capture(model, ["model.layers.2:input"], token_ids)["model.layers.2:input"]
    torch.testing.assert_close(captured, expected, rtol=0, atol=0)
    assert "model.layers.2.self_attn" not in called


def test_several_hooks_come_from_one_pass_whatever_their_order(tiny, token_ids):
    model = tiny("llama")
    hooks = ["model.layers.2", "model.embed_tokens", "model.layers.0.mlp.down_proj:input", "model.layers.2"]
    together = capture(model, hooks, token_ids)
    assert list(together) == list(dict.fromkeys(hooks))
    for hook in set(hooks):
        torch.testing.assert_close(together[hook], capture(model, [hook], token_ids)[hook], rtol=0, atol=0)
    assert together["model.layers.0.mlp.down_proj:input"].shape == (2, 7, 32)


def test_inputs_given_by_keyword_are_found(tiny, token_ids):
    model = tiny("llama")
    hooks = ["model.layers.1.input_layernorm", "model.layers.1.self_attn:input"]
    captured = capture(model, hooks, token_ids)
    torch.testing.assert_close(captured[hooks[0]], captured[hooks[1]], rtol=0, atol=0)


def test_an_earlier_activation_is_not_changed_by_what_works_in_place_after_it(token_ids):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 4)
            self.last = nn.Identity()

        def forward(self, input_ids):
            return self.last(self.embed(input_ids).add_(1))

    model = InPlace()
    captured = capture(model, ["embed", "last"], token_ids)
    torch.testing.assert_close(captured["last"] - captured["embed"], torch.ones(2, 7, 4))


def test_rows_packed_into_one_axis_are_unpacked(token_ids):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 4)
            self.experts = nn.Identity()

        def forward(self, input_ids):
            return self.experts(self.embed(input_ids).flatten(0, 1))

    model = Packed()
    captured = capture(model, ["embed", "experts"], token_ids)
    torch.testing.assert_close(captured["experts"], captured["embed"], rtol=0, atol=0)


def test_an_encoder_sees_the_tokens_to_the_right_and_a_causal_model_does_not(tiny, token_ids):
    changed = token_ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    for name, sees in (("bert", True), ("llama", False), ("gpt2", False)):
        model = tiny(name)
        before, after = (capture(model, [LAYER_1[name]], ids)[LAYER_1[name]][:, 0] for ids in (token_ids, changed))
        assert torch.equal(before, after) is not sees


@pytest.mark.parametrize(
    ("hook", "found"),
    [
        ("a.b", ("a.b", "output")),
        ("a.b:output", ("a.b", "output")),
        ("a.b:input", ("a.b", "input")),
    ],
)
def test_hooks_name_a_module_and_a_side(hook, found):
    assert (parse_hook(hook).module, parse_hook(hook).side) == found


@pytest.mark.parametrize("hook", ["", ":input", "a:", "a:middle", "a:b:input"])
def test_hooks_of_another_form_are_refused(hook):
    with pytest.raises(InputError, match="not of the form"):
        parse_hook(hook)


def test_an_unknown_module_is_refused_with_the_nearest_and_the_range_of_layers(tiny, token_ids):
    with pytest.raises(InputError, match=r"'model\.layer\.1'.*Did you mean .*model\.layers\.1.*model\.layers\.0\.\.3"):
        capture(tiny("llama"), ["model.layer.1"], token_ids)


def test_a_module_that_is_never_called_is_refused(tiny, token_ids):
    model = tiny("llama")
    model.spare = nn.Identity()
    for refused in (lambda: capture(model, ["spare"], token_ids), lambda: hook_width(model, "spare")):
        with pytest.raises(InputError, match="never reached"):
            refused()


def test_a_module_that_runs_twice_is_refused_as_ambiguous(tiny):
    model = tiny("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(InputError, match="runs 2 times"):
        hook_width(model, "model.layers.0.mlp")


def test_a_module_without_an_activation_per_token_is_refused(tiny, token_ids):
    with pytest.raises(InputError, match="name another module"):
        capture(tiny("llama"), ["model.rotary_emb"], token_ids)


@pytest.mark.parametrize(
    ("hook", "width"),
    [("model.layers.3", 16), ("model.layers.3.mlp.up_proj", 32), ("model.layers.0:input", 16), ("lm_head", 50)],
)
def test_the_width_comes_from_a_skeleton(folders, hook, width):
    assert hook_width(load_skeleton(ModelConfig(name=str(folders / "llama"))), hook) == width


def test_the_width_is_found_even_if_the_model_branches_on_values(folders):
    skeleton = load_skeleton(ModelConfig(name=str(folders / "llama")))
    skeleton.model.norm.register_forward_hook(lambda _, __, output: output if output.sum().item() >= 0 else None)
    assert hook_width(skeleton, "model.layers.0.mlp.up_proj") == 32


def test_lists_of_layers_are_not_offered_as_hooks(tiny):
    names = hook_names(tiny("llama"))
    assert "model.layers.0" in names
    assert "model.layers" not in names


@pytest.mark.parametrize("name", MODELS)
def test_what_is_listed_is_what_hook_width_takes_one_by_one(folders, name):
    skeleton = load_skeleton(ModelConfig(name=str(folders / name)))
    one_by_one, some = {}, hook_names(skeleton)[::5]
    for hook in some:
        with contextlib.suppress(InputError):
            one_by_one[hook] = hook_width(skeleton, hook)
    assert {hook.name: hook.width for hook in list_hooks(skeleton) if hook.name in some} == one_by_one
    assert len(one_by_one) > 5


def test_hooks_are_listed_in_the_order_in_which_they_are_called(tiny, token_ids):
    model = tiny("llama")
    listed = list_hooks(model)
    called = calls(model)
    with torch.no_grad():
        model(token_ids)
    order = [name for name in dict.fromkeys(called) if name]
    assert [hook.depth for hook in listed] == [order.index(hook.name) for hook in listed]
    assert listed[0].name == "model"
    assert {hook.name: hook.kind for hook in listed}["model.layers.3.mlp"] == "LlamaMLP"


def test_a_module_that_runs_twice_is_not_listed(tiny):
    model = tiny("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    assert not any(hook.name.endswith("layers.0.mlp") for hook in list_hooks(model))


def test_hooks_are_listed_even_if_the_model_branches_on_values(folders):
    skeleton = load_skeleton(ModelConfig(name=str(folders / "llama")))
    plain = list_hooks(skeleton)
    skeleton.model.norm.register_forward_hook(lambda _, __, output: output if output.sum().item() >= 0 else None)
    assert list_hooks(skeleton) == plain


@pytest.mark.parametrize("name", MODELS)
def test_pruning_frees_what_comes_after_and_changes_no_activation(tiny, token_ids, name):
    model, hook = tiny(name), LAYER_1[name]
    layer_bytes = sum(parameter.nbytes for parameter in model.get_submodule(hook).parameters())
    before = capture(model, [hook], token_ids)[hook]
    assert prune_after(model, [hook]) >= 2 * layer_bytes
    assert not list(model.get_submodule(hook.replace("1", "2")).parameters())
    model.to(torch.float64)  # it can still be moved
    torch.testing.assert_close(capture(model, [hook], token_ids)[hook].float(), before)


def test_pruning_keeps_all_up_to_the_last_of_several_hooks(tiny, token_ids):
    model, hooks = tiny("llama"), ["model.layers.2.mlp.down_proj:input", "model.layers.0"]
    before = capture(model, hooks, token_ids)
    prune_after(model, hooks)
    for hook, activation in capture(model, hooks, token_ids).items():
        torch.testing.assert_close(activation, before[hook], rtol=0, atol=0)
    assert not list(model.model.layers[3].parameters())
    assert list(model.model.layers[2].mlp.up_proj.parameters())


def test_pruning_at_the_very_end_frees_nothing(tiny):
    assert prune_after(tiny("llama"), ["lm_head"]) == 0


@pytest.mark.parametrize(
    "hook", ["model.layers.1", "model.layers.1.mlp", "model.layers.2:input", "model.layers.1.self_attn"]
)
def test_replacing_an_activation_by_itself_changes_nothing(tiny, token_ids, hook):
    model = tiny("llama")
    whole = model(token_ids).logits
    with replace(model, hook, lambda activation: activation):
        torch.testing.assert_close(model(token_ids).logits, whole, rtol=0, atol=0)


def test_the_model_goes_on_with_the_replacement_and_recovers_afterwards(tiny, token_ids):
    model = tiny("llama")
    whole, other = model(token_ids).logits, model(token_ids.flip(0)).logits
    swapped = capture(model, ["model.layers.1"], token_ids.flip(0))["model.layers.1"]
    shapes = []

    def function(activation):
        shapes.append(activation.shape)
        return swapped.flatten(0, 1).double()

    with replace(model, "model.layers.1", function):
        torch.testing.assert_close(model(token_ids).logits, other)
    assert shapes == [(14, 16)]
    torch.testing.assert_close(model(token_ids).logits, whole, rtol=0, atol=0)


def test_replacing_an_input_given_by_keyword_reaches_the_module(tiny, token_ids):
    model = tiny("llama")
    with replace(model, "model.layers.1.self_attn:input", torch.zeros_like):
        silenced = capture(model, ["model.layers.1.self_attn"], token_ids)["model.layers.1.self_attn"]
    assert silenced.count_nonzero() == 0


def test_smollm2_after_layer_8_has_the_norms_on_record(smollm2, smollm2_tokenizer):
    text = "Fellow-citizens of the Senate and House of Representatives: " * 24
    token_ids = torch.tensor([smollm2_tokenizer(text)["input_ids"][:256]])
    with torch.no_grad():
        hidden = smollm2(token_ids, output_hidden_states=True).hidden_states[9]
    captured = capture(smollm2, ["model.layers.8"], token_ids)["model.layers.8"]
    torch.testing.assert_close(captured, hidden, rtol=0, atol=0)
    norms = captured[0].norm(dim=-1)
    assert norms[0] > 3 * norms[1:].median()  # the attention sink
    assert 100 < norms[1:].median() < 160


def test_a_list_stays_a_list_and_a_tuple_a_tuple_however_deep():
    Pair = collections.namedtuple("Pair", "a b")
    new, old, rest = torch.ones(2, 3, 4), torch.zeros(2, 3, 4), torch.zeros(1)
    made = [
        (lambda x: [x, rest], list),
        (lambda x: (x, rest), tuple),
        (lambda x: Pair(x, rest), Pair),
        (lambda x: BaseModelOutput(last_hidden_state=x, attentions=(rest,)), BaseModelOutput),
        (lambda x: ((x, rest), [rest]), tuple),
    ]
    for make, kind in made:
        changed = with_first(make(old), new)
        assert type(changed) is kind
        assert first(changed) is new
        assert len(changed) == 2
        assert first(make(old)) is old


class Heads(nn.Module):
    """Three heads: their weights over three tokens look like an activation per token."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 4)
        self.weights = nn.Identity()

    def forward(self, input_ids):
        x = self.embed(input_ids)
        n = x.shape[1]
        self.weights(x.new_zeros(len(x), 3, n, n))
        return x


def test_as_many_heads_as_tokens_do_not_make_attention_an_activation():
    assert [hook.name for hook in list_hooks(Heads())] == ["embed"]
    with pytest.raises(InputError, match="weights"):
        hook_width(Heads(), "weights")


class ReadsWithoutCalling(nn.Module):
    """As DeBERTa: the layers read a table that is listed behind them, and do without it where it has no weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 4)
        self.layer = nn.Identity()
        self.table = nn.Embedding(5, 4)
        self.late = nn.Linear(4, 4)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        if self.table.weight is not None:
            x = x + self.table.weight.sum(0)
        return self.late(self.layer(x))


def test_a_model_that_reads_a_weight_without_calling_it_stays_whole(token_ids, caplog):
    model = ReadsWithoutCalling()
    before = capture(model, ["layer"], token_ids)["layer"]
    assert prune_after(model, ["layer"]) == 0
    assert "keeps all its weights" in caplog.text
    torch.testing.assert_close(capture(model, ["layer"], token_ids)["layer"], before, rtol=0, atol=0)
    assert prune_after(model, ["embed"]) > 0  # before the table is read, it can go


@pytest.mark.parametrize(
    "context, parameters, tokens",
    [
        (16, 10**6, 16),
        (4096, 10**6, 1024),
        (4096, 360 * 10**6, 1024),
        (4096, 577 * 10**6, 866),  # BigBird-Pegasus, which attends differently from 704 tokens on
        (4096, 7 * 10**9, 71),
        (4096, 70 * 10**9, 16),
        (8, 10**12, 8),
    ],
)
def test_a_probe_of_a_large_model_is_short(context: int, parameters: int, tokens: int) -> None:
    assert _probe_tokens(context, parameters) == tokens


class OfAGpuOnly(ReadsWithoutCalling):
    def forward(self, input_ids):
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")


def test_a_model_that_the_cpu_cannot_run_stays_whole(caplog):
    model = OfAGpuOnly()
    assert prune_after(model, ["layer"]) == 0
    assert "keeps all its weights" in caplog.text
    assert "not implemented for 'Half'" in caplog.text
    assert model.late.weight is not None


def test_a_module_that_is_given_nothing_is_refused(token_ids):
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 4)
            self.scale = ScaleOf()

        def forward(self, input_ids):
            return self.embed(input_ids) * self.scale()

    class ScaleOf(nn.Module):
        def forward(self):
            return torch.ones(1)

    with pytest.raises(InputError, match="takes nothing"):
        capture(Nothing(), ["scale:input"], token_ids)


def test_tokens_beyond_the_embedding_are_refused_in_a_sentence(tiny):
    with pytest.raises(InputError, match=r"the highest of them 50: .*tokenizer that belongs to the model"):
        capture(tiny("llama"), ["model.layers.1"], torch.full((1, 4), 50))
