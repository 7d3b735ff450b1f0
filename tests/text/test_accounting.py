"""No token gets lost unseen, whatever the corpus holds."""

import itertools
import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from flows.config import PipelineConfig
from tasks.errors import InputError
from tasks.progress import silent
from tasks.storage.artifacts import read_manifest
from tasks.text.pack import Packer
from tests.composed import tokenize
from tests.text.conftest import save

SPLITS = ("train", "eval")
HOSTILE = {
    "empty": "",
    "blank": " \t\r\n\u3000",
    "nul": "a\0b\0",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u202b\u0645\u0631\u062d\u0628\u0627\u202c!",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea e\u0301 \ufeff",
    "line ends": "one\r\ntwo\rthree\n\x0b\x0c\x85\u2028\u2029",
    "last code points": "\uffff\U0010ffff\ufffe",
    "special": "<eos><bos> <eos>",
    "long": "x" * 2_000,
}


def account(out):
    """Check a tokens directory: the tables against the manifest, and the manifest against itself; returns it."""
    manifest = read_manifest(str(out))
    documents = pq.read_table(out / "documents.parquet").to_pylist()
    rows = pq.read_table(out / "sequences.parquet", columns=["split"])["split"].to_pylist()
    for split in SPLITS:
        counts = {name: manifest[f"{name}_tokens"][split] for name in ("document", "separator", "prefix", "surplus")}
        n_in = counts["document"] + counts["separator"] + counts["prefix"]
        assert n_in == manifest["n_tokens"][split] + manifest["dropped_tail_tokens"][split] + counts["surplus"]
        assert manifest["n_tokens"][split] == rows.count(split) * manifest["context_length"]
        ours = [row["n_tokens"] for row in documents if row["split"] == split]
        assert (len(ours), sum(ours)) == (manifest["n_documents"][split], counts["document"])
        assert counts["separator"] <= len(ours)
        assert sum(manifest["segments"][split]) == manifest["n_sequences"][split] == rows.count(split)
    return manifest


@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(2, 9), max_size=12)), max_size=20),
    st.integers(2, 8),
    st.sampled_from([None, 0]),
    st.sampled_from([None, 1]),
)
def test_a_packer_that_is_cut_now_and_then_accounts_for_every_token(steps, context_length, separator, prefix):
    packer = Packer(context_length, separator, prefix)
    n_out = 0
    for i, token_ids in enumerate(steps):  # None is a cut
        if token_ids is None:
            packer.cut()
        else:
            n_out += packer.add(i, np.array(token_ids, np.int32))[0].size
    n_in = sum(len(ids) for ids in steps if ids is not None)
    assert n_in + packer.n_separators + packer.n_prefixes == n_out + packer.n_dropped + packer.n_pending
    runs = [len(list(run)) for is_cut, run in itertools.groupby(steps, lambda ids: ids is None) if not is_cut]
    assert packer.n_separators == (sum(n - 1 for n in runs) if separator is not None else 0)
    assert packer.n_prefixes == (n_out // context_length if prefix is not None else 0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.text(max_size=40), max_size=12), min_size=1, max_size=4),
    st.integers(2, 9),
    st.integers(1, 200),
    st.one_of(st.none(), st.integers(1, 300)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_the_whole_stage_accounts_for_every_token_and_document(
    tmp_path_factory, bytes_model, bos_model, files, context_length, segment_tokens, max_tokens, shuffle, unique, bos
):
    folder = tmp_path_factory.mktemp("corpus")
    for i, texts in enumerate(files):
        (folder / f"{i}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    text = {
        "source": str(folder),
        "context_length": context_length,
        "segment_tokens": segment_tokens,
        "max_tokens": max_tokens,
        "shuffle_documents": shuffle,
        "deduplicate": unique,
        "eval_fraction": 0.5,
    }
    config = PipelineConfig(model={"name": str(bos_model if bos else bytes_model)}, text=text)
    try:
        tokenize(config, str(folder / "out"), silent)
    except InputError as error:
        assert "less than one sequence" in str(error) or "no segment" in str(error) or "holds no text" in str(error)
        return
    manifest = account(folder / "out")
    if not manifest["truncated_by_max_tokens"]:
        everything = [text for texts in files for text in texts]
        counted = sum(manifest["n_documents"].values()) + manifest["empty_documents"] + manifest["duplicate_documents"]
        assert counted == len(everything)
        kept = {text for text in everything if text} if unique else [text for text in everything if text]
        assert sum(manifest["document_tokens"].values()) == sum(len(text.encode()) for text in kept)  # a token per byte


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "many.txt"])
def test_hostile_documents_go_through_and_come_back(write, tmp_path, bytes_model, name):
    texts = [text for n in range(12) for text in (*HOSTILE.values(), f"plain text number {n} " * 3)]
    if name == "many.txt":
        for i, text in enumerate(texts):
            (tmp_path / f"in-{i:03d}.txt").write_bytes(text.encode())
        source = tmp_path / "in-*.txt"
    else:
        source = write(name, [{"text": text} for text in texts])
    text = {"source": str(source), "context_length": 16, "eval_fraction": 0.3, "segment_tokens": 10**9}
    tokenize(PipelineConfig(model={"name": str(bytes_model)}, text=text), str(tmp_path / "out"), silent)
    manifest = account(tmp_path / "out")
    n_bytes = sum(len(text.replace("<eos>", "").replace("<bos>", "").encode()) for text in texts)
    n_special = 12 * 3
    assert sum(manifest["document_tokens"].values()) == n_bytes + n_special
    assert manifest["empty_documents"] == 12
    tokenizer = AutoTokenizer.from_pretrained(bytes_model)
    rows = pq.read_table(tmp_path / "out/sequences.parquet").to_pylist()
    whole = "".join(tokenizer.decode([i for row in rows if row["split"] == s for i in row["token_ids"]]) for s in SPLITS)
    for kind in ("nul", "right to left", "emoji", "line ends", "last code points"):
        assert HOSTILE[kind] in whole


def test_broken_bytes_go_through(tmp_path, bytes_model):
    lines = [
        b'{"text": "a\xff\xfe\xc3"}',
        rb'{"text": "\ud800 \udfff\ud83d\ude00"}',
        rb'{"text": "cr\r\nlf"}' + b"\r",
        rb'{"text": "\u0000"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines * 9))
    text = {"source": str(tmp_path / "a.jsonl"), "context_length": 4, "eval_fraction": 0.5}
    tokenize(PipelineConfig(model={"name": str(bytes_model)}, text=text), str(tmp_path / "out"), silent)
    manifest = account(tmp_path / "out")
    texts = ["a\ufffd\ufffd\ufffd", "\ufffd \ufffd\U0001f600", "cr\r\nlf", "\0"]
    assert sum(manifest["document_tokens"].values()) == 9 * sum(len(text.encode()) for text in texts)


@pytest.fixture(scope="module")
def words_model(tmp_path_factory):
    """A tokenizer that gives one token per word, whatever the word."""
    tokenizer = Tokenizer(models.WordLevel({"<bos>": 0, "<eos>": 1, "<word>": 2}, unk_token="<word>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return save(tokenizer, tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize("kind", ["words", "one word"])
def test_a_line_of_50_mb_goes_through(tmp_path, words_model, kind):
    word = "x" * 999
    huge = " ".join([word] * 50_000) if kind == "words" else "x" * 50_000_000
    rows = [huge, *(f"a b {i}" for i in range(40))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    text = {"source": str(tmp_path / "a.jsonl"), "context_length": 8, "eval_fraction": 0.5}
    tokenize(PipelineConfig(model={"name": str(words_model)}, text=text), str(tmp_path / "out"), silent)
    manifest = account(tmp_path / "out")
    n_huge = 50_000 if kind == "words" else -(-50_000_000 // 2**18)
    assert sum(manifest["document_tokens"].values()) == n_huge + 40 * 3


def test_of_copies_the_first_is_kept_and_the_others_are_counted(write, tmp_path, bytes_model):
    texts = [f"text {i}" for i in range(30)]
    rows = [{"text": text} for text in (*texts, "", "", *random.Random(0).sample(texts, 11))]
    text = {"source": str(write("a.jsonl", rows)), "context_length": 8, "eval_fraction": 0.5}
    for deduplicate, kept, dropped in ((True, 30, 11), (False, 41, 0)):
        out = tmp_path / f"out-{deduplicate}"
        settings = {**text, "deduplicate": deduplicate}
        tokenize(PipelineConfig(model={"name": str(bytes_model)}, text=settings), str(out), silent)
        manifest = account(out)
        assert sum(manifest["n_documents"].values()) == kept
        assert (manifest["duplicate_documents"], manifest["empty_documents"]) == (dropped, 2)
        hashes = pq.read_table(out / "documents.parquet")["sha256"].to_pylist()
        assert len(set(hashes)) == 30


def test_copies_in_other_files_and_formats_are_found_too(write, tmp_path, bytes_model):
    for name in ("in/a.jsonl", "in/b.parquet", "in/c.jsonl.gz"):
        write(name, [{"text": f"text {i}"} for i in range(30)])
    text = {"source": str(tmp_path / "in"), "context_length": 8, "eval_fraction": 0.5, "deduplicate": True}
    tokenize(PipelineConfig(model={"name": str(bytes_model)}, text=text), str(tmp_path / "out"), silent)
    assert account(tmp_path / "out")["duplicate_documents"] == 60
    sources = pq.read_table(tmp_path / "out/documents.parquet")["source"].to_pylist()
    assert set(sources) == {"a.jsonl"}
