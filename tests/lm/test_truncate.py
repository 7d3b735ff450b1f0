"""Models cut short behind the last hook: what they give there, what is read of them, and which are left whole."""

import copy
import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3ForConditionalGeneration

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import capture
from tasks.lm.load import load_model
from tasks.lm.truncate import Truncation, truncation
from tasks.lm.weight_files import needed_tensors
from tests.lm.families import SHAPE, VOCABULARY, build
from tests.sampled import sampled

LAYERS = 4
# Families of each kind of block: rotary, learned and relative positions, sliding windows, experts, state spaces, encoders.
CUT = {
    "afmoe": "model.layers",
    "apertus": "model.layers",
    "bart": "model.decoder.layers",
    "bert": "bert.encoder.layer",
    "bloom": "transformer.h",
    "cohere2": "model.layers",
    "ctrl": "transformer.h",
    "deberta": "encoder.layer",
    "deberta-v2": "encoder.layer",
    "deepseek_v3": "model.layers",
    "distilbert": "transformer.layer",
    "ernie4_5_moe": "model.layers",
    "exaone4": "model.layers",
    "falcon": "transformer.h",
    "gemma2": "model.layers",
    "gemma3_text": "model.layers",
    "glm4": "model.layers",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "gpt_oss": "model.layers",
    "granite": "model.layers",
    "llama": "model.layers",
    "mamba": "backbone.layers",
    "mistral": "model.layers",
    "mixtral": "model.layers",
    "modernbert": "layers",
    "mpnet": "encoder.layer",
    "mt5": "encoder.block",
    "olmo2": "model.layers",
    "olmoe": "model.layers",
    "opt": "model.decoder.layers",
    "phi3": "model.layers",
    "qwen2": "model.layers",
    "qwen2_moe": "model.layers",
    "qwen3": "model.layers",
    "qwen3_moe": "model.layers",
    "qwen3_next": "model.layers",
    "smollm3": "model.layers",
    "stablelm": "model.layers",
    "starcoder2": "model.layers",
    "t5": "encoder.block",
}
# Families whose early layers depend on how many there are.
WHOLE = {"minicpm3": "model.layers", "minimax": "model.layers", "gpt_neox_japanese": "gpt_neox_japanese.layers"}
IDS = torch.randint(6, VOCABULARY, SHAPE, generator=torch.Generator().manual_seed(1))


def saved(kind: str, folder: Path) -> ModelConfig:
    """A tiny random model of a family, of four layers, on disk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, at tiny configurations
        build(kind, layers=LAYERS).save_pretrained(folder)
    return ModelConfig(name=str(folder), dtype="float32")


def whole_of(config: ModelConfig) -> ModelConfig:
    return config.model_copy(update={"truncate": "off"})


def layers_of(model: Any, layers: str) -> int:
    return len(model.get_submodule(layers))


def require_equal(config: ModelConfig, hooks: list[str], ids: Tensor = IDS) -> Any:
    """Activations at the hooks are those of the whole model, to the bit; returns the model that gave them."""
    short = load_model(config, hooks=hooks)
    there = capture(load_model(whole_of(config), hooks=hooks), hooks, ids)
    for hook, activation in capture(short, hooks, ids).items():
        assert activation.isfinite().all()
        assert torch.equal(activation, there[hook]), hook
    return short


@pytest.mark.parametrize("kind", sampled(CUT, 0.2, kind=lambda kind: CUT[kind]))
def test_a_model_cut_short_gives_what_the_whole_one_gives(kind: str, tmp_path: Path) -> None:
    layers = CUT[kind]
    short = require_equal(saved(kind, tmp_path), [f"{layers}.1", f"{layers}.0", f"{layers}.1:input"])
    assert layers_of(short, layers) == 2


@pytest.mark.parametrize("kind", WHOLE)
def test_a_model_that_computes_otherwise_with_fewer_layers_stays_whole(kind: str, tmp_path: Path) -> None:
    layers = WHOLE[kind]
    model = require_equal(saved(kind, tmp_path), [f"{layers}.1"])
    assert layers_of(model, layers) == LAYERS


def test_keys_and_values_that_layers_share_keep_a_model_whole(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
    kinds = ["sliding_attention", "full_attention"] * 3
    config = AutoConfig.for_model(
        "gemma3n_text", **sizes, num_hidden_layers=6, num_kv_shared_layers=3, layer_types=kinds, laurel_rank=4
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = require_equal(ModelConfig(name=str(tmp_path), dtype="float32"), ["model.layers.4.mlp"])
    assert layers_of(model, "model.layers") == 6


def test_of_a_model_that_sees_too_only_the_layers_that_read_text_are_cut(tmp_path: Path) -> None:
    text = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    text |= {"vocab_size": VOCABULARY, "num_hidden_layers": 4, "sliding_window": 4}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4}
    vision |= {"image_size": 16, "patch_size": 8}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    model = require_equal(ModelConfig(name=str(tmp_path), dtype="float32"), ["model.language_model.layers.1"])
    assert layers_of(model, "model.language_model.layers") == 2
    assert layers_of(model, "model.vision_tower.encoder.layers") == 4


@pytest.mark.parametrize("hooks", [["model.norm"], ["lm_head"], ["model.layers.1", "model.norm"], ["model.layers.3"]])
def test_what_comes_behind_all_layers_needs_all_of_them(folders: Path, hooks: list[str], token_ids: Tensor) -> None:
    config = ModelConfig(name=str(folders / "llama"), dtype="float32")
    assert layers_of(require_equal(config, hooks, token_ids), "model.layers") == 4


def test_a_hook_before_all_layers_may_stand_beside_one_in_them(folders: Path, token_ids: Tensor) -> None:
    config = ModelConfig(name=str(folders / "llama"), dtype="float32")
    hooks = ["model.embed_tokens", "model.layers.0.mlp.up_proj"]
    assert layers_of(require_equal(config, hooks, token_ids), "model.layers") == 1


def test_without_hooks_and_with_truncate_off_a_model_is_whole(folders: Path) -> None:
    config = ModelConfig(name=str(folders / "llama"), dtype="float32")
    assert layers_of(load_model(config), "model.layers") == 4
    assert layers_of(load_model(whole_of(config), hooks=["model.layers.0"]), "model.layers") == 4


def test_the_demos_gguf_is_cut_as_well(smollm2_config: ModelConfig, smollm2: Any, token_ids: Tensor) -> None:
    hook = "model.layers.2.mlp"
    short = load_model(smollm2_config, hooks=[hook])
    assert layers_of(short, "model.layers") == 3
    assert torch.equal(capture(short, [hook], token_ids)[hook], capture(smollm2, [hook], token_ids)[hook])


# Which files are read.


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 of four layers in many files; its tensors are called h.0 and so on, without the model's prefix."""
    folder = tmp_path_factory.mktemp("parts")
    model = build("gpt2", layers=LAYERS)
    model.transformer.save_pretrained(folder, max_shard_size="20KB")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
    return folder


def files_of(folder: Path, *layers: str) -> set[str]:
    """The files that hold these layers, or what lies in no layer."""
    starts = ("wte.", "wpe.", "ln_f.", *layers)
    return {path.name for path in folder.glob("*.safetensors") if any(key.startswith(starts) for key in keys(path))}


def keys(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_files_of_later_layers_only_need_not_be_there(in_parts: Path, tmp_path: Path) -> None:
    config = ModelConfig(name=str(in_parts), dtype="float32")
    whole = capture(load_model(config), ["transformer.h.1"], IDS)["transformer.h.1"]
    later = {path.name for path in in_parts.glob("*.safetensors")} - files_of(in_parts, "h.0.", "h.1.")
    assert later
    folder = shutil.copytree(in_parts, tmp_path / "partly", ignore=shutil.ignore_patterns(*later))
    config = ModelConfig(name=str(folder), dtype="float32")
    short = load_model(config, hooks=["transformer.h.1"])
    assert torch.equal(capture(short, ["transformer.h.1"], IDS)["transformer.h.1"], whole)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(config)


def test_files_of_later_layers_only_are_not_downloaded(in_parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub_at(in_parts, monkeypatch)
    short = load_model(ModelConfig(name="some/model", dtype="float32"), hooks=["transformer.h.0"])
    assert layers_of(short, "transformer.h") == 1
    weights = {name for name in asked if name.endswith(".safetensors")}
    assert weights == files_of(in_parts, "h.0.")
    assert weights < {path.name for path in in_parts.glob("*.safetensors")}


def hub_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a folder be what the hub has of some/model at commit c0ffee; the files that are asked for are listed."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    from tasks.lm import files, load

    asked: list[str] = []

    def download(repository: str, name: str, *, revision: str) -> str:
        assert (repository, revision) == ("some/model", "c0ffee")
        asked.append(name)
        if not (folder / name).exists():
            raise LocalEntryNotFoundError(name)
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(load, "resolve", lambda _: files.ModelFiles("some/model", revision="c0ffee"))
    monkeypatch.setattr(load, "read_configuration", lambda _: AutoConfig.from_pretrained(folder))
    return asked


def test_where_first_layers_lack_weights_the_whole_model_says_what_is_missing(folders: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders / "llama", tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights that LlamaForCausalLM needs"):
        load_model(ModelConfig(name=str(folder)), hooks=["model.layers.1"])


def short(layers: str, kept: int, of: int) -> Truncation:
    return Truncation(None, layers, kept, of)


@pytest.mark.parametrize(
    ("tensors", "of", "left_out"),
    [
        (["wte.weight", "h.0.w", "h.1.w", "h.2.w"], 3, ["h.1.w", "h.2.w"]),
        (["h.0.w", "h.1.w", "h.2.w", "h.3.for_a_further_token"], 3, ["h.1.w", "h.2.w", "h.3.for_a_further_token"]),
        (["h.0.experts.2.h.1.w", "h.1.w"], 2, ["h.1.w"]),
        (["vision.h.0.w", "vision.h.1.w", "text.h.0.w", "text.h.1.w", "text.h.2.w"], 3, ["text.h.1.w", "text.h.2.w"]),
        (["vision.h.0.w", "vision.h.2.w", "text.h.0.w", "text.h.2.w"], 3, []),
        (["layers.0.w", "layers.1.w"], 2, []),
    ],
)
def test_which_tensors_are_of_later_layers(tensors: list[str], of: int, left_out: list[str]) -> None:
    needed = needed_tensors(tensors, short("transformer.h", 1, of))
    assert needed == [tensor for tensor in tensors if tensor not in left_out]


# What the check sees.


class Block(nn.Module):
    def __init__(self, config: Any, place: int) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.window = config.n_layers - place if config.windows else 0

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


class Toy(nn.Module):
    """Blocks in a row, which may depend on how many they are in several ways."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.settings = config
        self.embed = nn.Embedding(8, 8)
        self.blocks = nn.ModuleList(Block(config, place) for place in range(config.n_layers))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for place, block in enumerate(self.blocks):
            if self.settings.scales:
                x = x / len(self.blocks)
            if self.settings.looks_back and place == len(self.blocks) // 2:
                x = x.flip(1)
            x = nn.functional.linear(block(x), self.blocks[-1].linear.weight) if self.settings.shares else block(x)
        return x


def toy(**ways: bool) -> Truncation | None:
    class Config(SimpleNamespace):
        def get_text_config(self) -> "Config":
            return self

    def on_meta(config: Any) -> nn.Module:
        with torch.device("meta"):
            return Toy(config)

    settings = {"scales": False, "shares": False, "windows": False, "looks_back": False, **ways}
    config = Config(n_layers=6, of_each=list("abcdef"), others=[1, 2], **settings)
    before = copy.deepcopy(config)
    found = truncation(config, ["blocks.1.linear", "blocks.2:input"], on_meta)
    assert config == before
    return found


def test_a_configuration_is_cut_with_all_its_lists_of_layers() -> None:
    found = toy()
    assert found is not None
    assert (found.layers, found.kept, found.of) == ("blocks", 3, 6)
    assert (found.config.n_layers, found.config.of_each, found.config.others) == (3, ["a", "b", "c"], [1, 2])


@pytest.mark.parametrize("way", ["scales", "shares", "windows", "looks_back"])
def test_whatever_depends_on_the_number_of_layers_is_seen(way: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert toy(**{way: True}) is None
    assert "the whole model is loaded" in caplog.text
