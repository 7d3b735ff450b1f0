"""Models that are read in a way of their own."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, T5EncoderModel

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import capture, hook_width, list_hooks, prune_after
from tasks.lm.load import load_model, load_skeleton

T5 = AutoConfig.for_model("t5", vocab_size=64, d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2)
M2M = {"vocab_size": 64, "d_model": 16, "max_position_embeddings": 32}
LAYERS = dict.fromkeys(["encoder_layers", "decoder_layers"], 2) | dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim"], 32)
HEADS = dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 2)
XLNET = {"vocab_size": 64, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (lambda: AutoModel.from_config(T5), "encoder.block.1"),
        (lambda: T5EncoderModel(T5), "encoder.block.1"),
        (lambda: AutoModel.from_config(AutoConfig.for_model("m2m_100", **M2M, **LAYERS, **HEADS)), "encoder.layers.1"),
    ],
    ids=["t5", "t5 encoder", "m2m_100"],
)
def test_the_encoder_of_an_encoder_decoder_is_harvested_and_the_rest_is_dropped(make, layer, tmp_path):
    made, ids = make().eval(), torch.randint(3, 64, (2, 9))
    made.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = made.get_encoder()(input_ids=ids, output_hidden_states=True).hidden_states[1]
    config = ModelConfig(name=str(tmp_path), dtype="float32")
    listed = {hook.name: hook.width for hook in list_hooks(load_skeleton(config))}
    assert listed[layer] == 16
    assert not any(name.startswith("decoder") for name in listed)
    ours, first = load_model(config), layer.replace("1", "0")
    prune_after(ours, [first], 9)
    assert not [name for name, _ in ours.named_parameters() if name.startswith(("decoder", layer))]
    torch.testing.assert_close(capture(ours, [first], ids)[first], wanted, rtol=0, atol=0)


def test_xlnet_is_listed_and_computes_in_float32_only(tmp_path):
    AutoModelForCausalLM.from_config(AutoConfig.for_model("xlnet", **XLNET)).save_pretrained(tmp_path)
    config = ModelConfig(name=str(tmp_path), dtype="bfloat16")
    skeleton = load_skeleton(config)
    assert [hook.name for hook in list_hooks(skeleton)] == ["transformer", "lm_loss"]
    with pytest.raises(InputError, match=r"layer\.0' gives shape \[3, 2, 16\] for 2 sequences of 3 tokens"):
        hook_width(skeleton, "transformer.layer.0")
    with pytest.raises(InputError, match=r"set model\.dtype to float32"):
        hook_width(load_skeleton(config, as_run=True), "transformer")
