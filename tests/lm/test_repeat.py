from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from tasks.lm.hooks import replace
from tasks.lm.repeat import layers_before, run_once

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
IDS = torch.arange(24).reshape(2, 12)


def built(kind: str, tiny: Any) -> Any:
    torch.manual_seed(0)
    if kind == "gemma":
        return GemmaForCausalLM(GemmaConfig(**SIZES, num_key_value_heads=2, head_dim=8)).eval()
    if kind == "neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, rotary_pct=0.5)).eval()
    return tiny(kind)


@pytest.mark.parametrize(
    ("kind", "hooks", "n"),
    [
        ("llama", ["model.layers.2"], 3),
        ("llama", ["model.layers.2:input"], 2),
        ("llama", ["model.layers.2.mlp", "model.layers.2.mlp:input"], 2),
        ("llama", ["model.layers.3", "model.layers.1.mlp"], 1),
        ("llama", ["model.layers.0"], 1),
        ("llama", ["model.norm"], 0),
        ("gpt2", ["transformer.h.2.attn"], 2),
        ("gemma", ["model.layers.1"], 2),
        ("neox", ["gpt_neox.layers.2"], 3),
    ],
)
@torch.inference_mode()
def test_layers_that_run_once_leave_the_bits_of_further_passes(kind: str, hooks: list[str], n: int, tiny: Any) -> None:
    model, runs = built(kind, tiny), list[nn.Module]()
    layers = layers_before(model, hooks)
    assert len(layers) == n

    def logits(change: Any) -> Tensor:
        with replace(model, hooks[0], change):
            return model(IDS, use_cache=False).logits

    changes = [lambda rows: rows, torch.zeros_like, lambda rows: rows * 1.5]
    whole = [logits(change) for change in changes]
    for layer in layers:  # its first part, which runs only where the layer does
        next(layer.children()).register_forward_pre_hook(lambda part, _: runs.append(part))
    with run_once(layers):
        assert all(torch.equal(logits(change), logits_whole) for change, logits_whole in zip(changes, whole, strict=True))
    assert len(runs) == n
    assert torch.equal(logits(changes[2]), whole[2])
    assert all("forward" not in layer.__dict__ for layer in layers)


class Layer(nn.Module):
    def forward(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        kept.append(x)
        return 2 * x


class Sharing(nn.Module):
    """Its last layer may read what the first put aside, and its first layer may run twice."""

    def __init__(self, *, aside: bool, twice: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.aside, self.twice, self.device = aside, twice, torch.device("cpu")

    def _in_order(self) -> list[nn.Module]:
        return list(self.layers)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        x, kept = self.embedding(input_ids), list[Tensor]()
        for layer in (*self.layers[: 1 if self.twice else 0], *self._in_order()):
            x = layer(x, kept)
        return SimpleNamespace(logits=x + kept[0] if self.aside else x)


@pytest.mark.parametrize(("aside", "twice", "n"), [(False, False, 2), (True, False, 0), (False, True, 0)])
def test_layers_that_others_read_past_their_output_run_in_every_pass(aside: bool, twice: bool, n: int) -> None:
    assert len(layers_before(Sharing(aside=aside, twice=twice), ["layers.1"])) == n


class Backwards(Sharing):
    """Its layers are listed in another order than they run in."""

    def _in_order(self) -> list[nn.Module]:
        return list(self.layers)[::-1]


@pytest.mark.parametrize("hook, n", [("layers.1", 1), ("layers.1:input", 0), ("layers.2", 1), ("layers.0", 1)])
@torch.inference_mode()
def test_a_layer_that_is_listed_before_the_hook_but_runs_after_it_runs_in_every_pass(hook: str, n: int) -> None:
    model = Backwards(aside=False, twice=False)
    layers = layers_before(model, [hook])
    assert layers == [model.layers[int(hook[7])]] * n

    def logits(change: Any) -> Tensor:
        with replace(model, hook, change):
            return model(IDS, use_cache=False).logits

    changes = [lambda rows: rows, torch.zeros_like]
    whole = [logits(change) for change in changes]
    with run_once(layers):
        assert all(torch.equal(logits(change), logits_whole) for change, logits_whole in zip(changes, whole, strict=True))
