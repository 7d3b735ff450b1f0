import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.limits import check_context, check_tokens, check_vocabulary
from tasks.lm.load import known_tokens, load_tokenizer

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ENDS = {
    "gpt2": (AutoModelForCausalLM, {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}, 32),
    "bert": (AutoModel, {"max_position_embeddings": 32}, 32),
    "roberta": (AutoModel, {"max_position_embeddings": 32, "pad_token_id": 1}, 30),
    "opt": (AutoModelForCausalLM, {"max_position_embeddings": 32, "ffn_dim": 32, "word_embed_proj_dim": 16}, 32),
    "gptj": (AutoModelForCausalLM, {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4}, 32),
    "ctrl": (AutoModelForCausalLM, {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "dff": 32}, 32),
}
GO_ON = {
    "llama": {"max_position_embeddings": 32},
    "gpt_neox": {"max_position_embeddings": 32},
    "bloom": {"seq_length": 32, "n_layer": 2, "n_head": 2},
    "mamba": {},
}


def skeleton(auto, kind, sizes):
    config = AutoConfig.for_model(kind, **{k: v for k, v in SIZES.items() if kind not in ("gpt2", "gptj", "ctrl")}, **sizes)
    config.vocab_size = 50
    with torch.device("meta"):
        return auto.from_config(config).eval()


@pytest.mark.parametrize("kind", ENDS)
def test_sequences_end_where_a_table_of_positions_does(kind):
    auto, sizes, most = ENDS[kind]
    model = skeleton(auto, kind, sizes)
    check_context(model, most)
    with pytest.raises(InputError, match=f"text.context_length is {most + 1} but the model reads at most {most} tokens"):
        check_context(model, most + 1)
    with pytest.raises(InputError, match=f"at most {most} tokens"):
        check_context(model, 4_000)


@pytest.mark.parametrize("kind", GO_ON)
def test_rotary_relative_and_recurrent_models_are_not_refused(kind, caplog):
    check_context(skeleton(AutoModelForCausalLM, kind, GO_ON[kind]), 40)
    assert ("made for 32 positions" in caplog.text) is ("max_position_embeddings" in GO_ON[kind])


def test_a_tokenizer_of_another_model_is_refused(folders):
    config = ModelConfig(name=str(folders / "llama"))
    tokenizer = load_tokenizer(config)
    assert known_tokens(config) == 50
    check_vocabulary(tokenizer, 4)
    with pytest.raises(InputError, match=r"ids go up to 3 but the model's embedding ends at 2"):
        check_vocabulary(tokenizer, 3)


def test_an_added_token_may_be_beyond_the_embedding_until_it_is_met_in_text(folders):
    tokenizer = load_tokenizer(ModelConfig(name=str(folders / "llama")))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    check_vocabulary(tokenizer, 4)
    with pytest.raises(InputError, match=r"token 4 \('<pad>'\)"):
        check_tokens(tokenizer, 4, 4)
