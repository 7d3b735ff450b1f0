"""Model folders that somebody damaged, or means to do harm with: one sentence each, no traceback, no hang, no heap."""

import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import list_hooks
from tasks.lm.load import load_skeleton, resolve
from tests.sampled import sampled

ANY: list[Any] = [None, 0, -1, 1.5, "16", "x", [], {}, True, 2**40, 10**30]
DAMAGES: dict[str, dict[str, Any]] = {
    **{f"hidden_size {value!r}": {"hidden_size": value} for value in ANY},
    **{f"num_attention_heads {value!r}": {"num_attention_heads": value} for value in ANY},
    **{f"num_key_value_heads {value!r}": {"num_key_value_heads": value} for value in ANY},
    **{f"vocab_size {value!r}": {"vocab_size": value} for value in ANY},
    **{f"num_hidden_layers {value!r}": {"num_hidden_layers": value} for value in (*ANY, 2_000)},
    **{f"max_position_embeddings {value!r}": {"max_position_embeddings": value} for value in ANY},
    **{f"intermediate_size {value!r}": {"intermediate_size": value} for value in ANY},
    **{
        f"quantization_config {value!r}": {"quantization_config": value}
        for value in ("x", [], 3, {"quant_method": "no"}, {})
    },
    **{f"id2label {value!r}": {"id2label": value} for value in ([], 3, "x", {"a": 1})},
    **{f"architectures {value!r}": {"architectures": value} for value in (3, "x", {}, [3], [[]])},
    **{f"model_type {value!r}": {"model_type": value} for value in ANY},
    **{f"hidden_act {value!r}": {"hidden_act": value} for value in ("no", 3, None, [])},
    **{
        f"rope_parameters {value!r}": {"rope_parameters": value}
        for value in ("x", [], 3, {"rope_type": "no"}, {"rope_theta": "x"})
    },
    **{f"dtype {value!r}": {"dtype": value} for value in ("no", 3, [], {})},
    "auto_map": {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}},
    "layer_types": {"layer_types": ["no"] * 7},
}


def damaged(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> ModelConfig:
    made = tmp_path / "model"
    shutil.copytree(folder, made, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(settings | changes))
    return ModelConfig(name=str(made))


@pytest.mark.parametrize("damage", sampled(DAMAGES, 0.1, kind=lambda damage: damage.split()[0]))
def test_a_damaged_configuration_is_used_or_refused_in_one_line(folders: Path, tmp_path: Path, damage: str) -> None:
    before = psutil.Process().memory_info().rss
    try:
        list_hooks(load_skeleton(damaged(folders / "llama", tmp_path, DAMAGES[damage])))
    except InputError as refused:
        assert "\n" not in str(refused)
        assert len(str(refused)) < 1_000
    assert psutil.Process().memory_info().rss - before < 2**30


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "null",
        "{",
        '"x"',
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"model_type": "llama", "a": ' + "9" * 5_000 + "}",
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError) as refused:
        load_skeleton(ModelConfig(name=str(tmp_path)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("size", ["hidden_size", "vocab_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", [0, 2**40])
def test_an_impossible_size_is_named(folders: Path, tmp_path: Path, size: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{size} {value}"):
        load_skeleton(damaged(folders / "llama", tmp_path, {size: value}))


def test_a_kernel_on_the_hub_is_not_looked_for(folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    skeleton = load_skeleton(damaged(folders / "llama", tmp_path, {"attn_implementation": "owner/kernel"}))
    assert (
        skeleton.config._attn_implementation
        == load_skeleton(ModelConfig(name=str(folders / "llama"))).config._attn_implementation
    )
    assert "owner/kernel" in caplog.text


@pytest.mark.parametrize(
    "name", ["~x", "~nobody/model", "__main__", "\0", "a" * 300, "x/" * 3_000, "-", "..", "a b", "Ä/ö", "x\ny", "~"]
)
def test_a_name_that_is_no_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, ValidationError)):
        resolve(ModelConfig(name=name).absolute())
