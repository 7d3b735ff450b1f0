import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, PreTrainedTokenizerFast


def byte_tokenizer() -> Tokenizer:
    """Ids 0 and 1 are special, the others single bytes in the byte-level alphabet."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<bos>": 0, "<eos>": 1} | {symbol: i for i, symbol in enumerate(alphabet, 2)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="session")
def bytes_model(tmp_path_factory):
    """Folder of a model without weights whose tokenizer gives one token per byte."""
    return save(byte_tokenizer(), tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="session")
def bos_model(tmp_path_factory):
    """The same, but its tokenizer puts <bos> before any text, as Gemma's does."""
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return save(tokenizer, tmp_path_factory.mktemp("bos"))


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", model_max_length=16)
    fast.save_pretrained(folder)
    LlamaConfig(vocab_size=258).save_pretrained(folder)
    return folder


@pytest.fixture
def write(tmp_path):
    """Writes rows (dictionaries) to a file below tmp_path, in the format that its name says; returns the path."""

    def write_rows(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
            return path
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if name.endswith(".gz"):
            lines = gzip.compress(lines)
        if name.endswith(".zst"):
            lines = pa.compress(lines, "zstd", asbytes=True)
        path.write_bytes(lines)
        return path

    return write_rows
