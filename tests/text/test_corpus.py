import itertools
import random
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.text.config import TextConfig
from tasks.text.corpus import Corpus, check_corpus, corpus_identity
from tasks.text.documents import Document
from tasks.text.order import blocks, mixed, shuffled

ROWS = [{"text": f"text {i}", "who": "Ann" if i % 2 else None, "year": 1900 + i} for i in range(5)]
FORMATS = ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"]


def read(source, **settings):
    return list(Corpus(TextConfig(source=str(source), shuffle_documents=False, **settings)).documents())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents_in_order(write, name):
    documents = read(write(name, ROWS), title_columns=["who", "year"])
    assert [d.text for d in documents] == [row["text"] for row in ROWS]
    assert [d.title for d in documents] == ["1900", "Ann, 1901", "1902", "Ann, 1903", "1904"]
    assert {d.source for d in documents} == {name}


@pytest.mark.parametrize("name", FORMATS)
def test_empty_documents_and_nulls_come_as_empty_text_and_nuls_are_kept(write, name):
    texts = [row.text for row in read(write(name, [{"text": ""}, {"text": None}, {"text": "a\0b"}, {"text": "é"}]))]
    assert texts == ["", "", "a\0b", "é"]


def test_invalid_utf8_is_replaced_wherever_it_stands(tmp_path):
    broken = b"a\xffb"
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.array([0, 3], pa.int32()).buffers()[1], pa.py_buffer(broken)])
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + broken + b'"}\n')
    (tmp_path / "a.txt").write_bytes(broken)
    for name in ("a.parquet", "a.jsonl", "a.txt"):
        assert [d.text for d in read(tmp_path / name)] == ["a\ufffdb"]


def test_half_a_surrogate_pair_in_json_is_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude00"}\n')
    assert [d.text for d in read(tmp_path / "a.jsonl")] == ["a\ufffdb \U0001f600"]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_every_parquet_type_of_text_is_read(tmp_path, kind):
    pq.write_table(pa.table({"text": pa.array(["a", "é"], pa.string()).cast(kind)}), tmp_path / "a.parquet")
    assert [d.text for d in read(tmp_path / "a.parquet")] == ["a", "é"]


def test_a_short_text_file_is_one_document_and_a_long_one_is_cut_at_line_ends(tmp_path):
    (tmp_path / "short.txt").write_text("one\n\ntwo\n")
    (tmp_path / "long.txt").write_text("".join(f"line {i}\n" for i in range(10_000)))
    short = [d for d in read(tmp_path) if d.source == "short.txt"]
    long = [d for d in read(tmp_path) if d.source == "long.txt"]
    assert [(d.text, d.title) for d in short] == [("one\n\ntwo\n", "short.txt")]
    assert len(long) > 4
    assert all(d.text.endswith("\n") for d in long)
    assert "".join(d.text for d in long) == (tmp_path / "long.txt").read_text()
    assert [d.title for d in long[:2]] == ["long.txt, part 1", "long.txt, part 2"]


def test_a_text_file_without_line_ends_is_cut_too(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100_000)
    documents = read(tmp_path / "a.txt")
    assert sum(len(d.text) for d in documents) == 100_000
    assert max(len(d.text) for d in documents) <= 32_768


def test_folders_and_globs_stand_for_their_files_by_name(write, tmp_path):
    for name in ("in/b.jsonl", "in/a.jsonl", "in/deep/c.jsonl", "in/.hidden.jsonl"):
        write(name, [{"text": name}])
    (tmp_path / "in/README.md").write_text("not a corpus")
    assert [d.source for d in read(tmp_path / "in")] == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]
    assert [d.source for d in read(tmp_path / "in/*.jsonl")] == ["a.jsonl", "b.jsonl"]
    assert [d.source for d in read(tmp_path / "in/**/*.jsonl")] == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b"}')
    assert [d.text for d in read(tmp_path / "a.jsonl")] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "b"', "line 2: the line is not valid JSON"),
        ('["b"]', "line 2: the line holds a list, not an object"),
        ('{"body": "b", "a": 1}', "line 2: the object has no key 'text'; it has a, body"),
        ('{"text": 3}', "line 2: text.column 'text' holds int, not text"),
    ],
)
def test_a_bad_json_line_is_named_by_file_and_number(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(InputError, match=rf"a\.jsonl, {reason}"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"column": "body"}, "has no column 'body', which text.column names; it has text, who, year"),
        ({"title_columns": ["when"]}, "has no column 'when', which text.title_columns names; it has text, who, year"),
        ({"column": "year"}, "text.column 'year' holds int64, not text"),
    ],
)
def test_a_wrong_parquet_column_is_refused_before_work_starts(write, settings, reason):
    with pytest.raises(InputError, match=reason):
        check_corpus(TextConfig(source=str(write("a.parquet", ROWS)), **settings))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("absent.jsonl", r"no such file or folder: .*absent\.jsonl"),
        ("*.jsonl", r"no file matches .*\*\.jsonl"),
        ("empty", r"folder .*empty holds no file"),
        ("notes.md", r"notes\.md is of an unknown kind; its name must end in \.parquet, \.jsonl"),
        ("damaged.parquet", r"damaged\.parquet cannot be read"),
        ("damaged.jsonl.gz", r"damaged\.jsonl\.gz cannot be read"),
        ("nothing.jsonl", "holds no document"),
    ],
)
def test_what_is_no_corpus_is_refused_by_name(tmp_path, source, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("hello")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 nothing PAR1")
    (tmp_path / "damaged.jsonl.gz").write_bytes(b"not gzip")
    folder = tmp_path if source != "*.jsonl" else tmp_path / "empty"
    (tmp_path / "nothing.jsonl").write_bytes(b"\n")
    with pytest.raises(InputError, match=reason):
        check_corpus(TextConfig(source=str(folder / source)))


def test_a_compressed_file_that_is_cut_short_is_refused_rather_than_read_in_part(write):
    path = write("a.jsonl.gz", ROWS * 100)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        read(path)


def test_a_dataset_of_the_hub_needs_the_library_that_reads_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"owner/corpus is no file or folder here; .*pip install datasets"):
        check_corpus(TextConfig(source="owner/corpus"))


def test_a_dataset_of_the_hub_is_streamed(monkeypatch):
    asked = []

    def load_dataset(name, split, streaming):
        asked.append((name, split, streaming))
        return iter(ROWS)

    library = types.ModuleType("datasets")
    library.load_dataset = load_dataset
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "datasets", library)
    assert [d.text for d in read("owner/corpus", hub_split="test")] == [row["text"] for row in ROWS]
    assert asked == [("owner/corpus", "test", True)]
    with pytest.raises(InputError, match="has no column 'body'; it has text, who, year"):
        read("owner/corpus", column="body")


def test_the_identity_follows_content_and_names_but_not_the_place(write):
    here, there = write("x/a.jsonl", ROWS), write("y/a.jsonl", ROWS)
    first, second = (corpus_identity(TextConfig(source=str(path))) for path in (here, there))
    assert first == second
    write("y/a.jsonl", ROWS[:4])
    assert corpus_identity(TextConfig(source=str(there))) != first
    assert corpus_identity(TextConfig(source=str(write("y/b.jsonl", ROWS)))) != first


@given(st.lists(st.text(max_size=9), max_size=30), st.integers(0, 40), st.integers(0, 3))
def test_shuffling_loses_and_doubles_nothing(texts, max_bytes, seed):
    documents = [Document(text, "", "") for text in texts]
    out = list(shuffled(iter(documents), random.Random(seed), max_bytes))
    assert sorted(d.text for d in out) == sorted(texts)


def test_shuffling_holds_back_no_more_text_than_allowed():
    ahead = 0

    def documents():
        nonlocal ahead
        for i in range(1000):
            ahead += 1
            yield Document(f"{i:010d}", "", "")

    for _ in shuffled(documents(), random.Random(0), max_bytes=200):
        ahead -= 1
        assert ahead <= 20


@pytest.fixture
def texts_of_three_files(write, tmp_path):
    """Reads three files of 20 documents by these settings."""
    for name in ("a.parquet", "b.parquet", "c.jsonl"):
        write(f"in/{name}", [{"text": f"{name} {i}"} for i in range(20)])
    return lambda **settings: [d.text for d in Corpus(TextConfig(source=str(tmp_path / "in"), **settings)).documents()]


def test_a_sample_is_drawn_by_the_seed_from_all_files_and_row_groups(texts_of_three_files):
    first, again, other = (texts_of_three_files(seed=seed, max_tokens=10) for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first) == sorted(other)
    assert len({text.split()[0] for text in first[:20]}) > 1


def test_a_whole_corpus_is_read_file_by_file_and_shuffled_by_the_seed_within_each(texts_of_three_files):
    first, again, other, plain = (texts_of_three_files(**s) for s in ({}, {}, {"seed": 1}, {"shuffle_documents": False}))
    assert first == again != other
    for at, name in ((0, "a.parquet"), (20, "b.parquet"), (40, "c.jsonl")):
        assert plain[at : at + 20] == [f"{name} {i}" for i in range(20)]
        assert sorted(first[at : at + 20]) == sorted(plain[at : at + 20])
        assert first[at : at + 20] != plain[at : at + 20]


@given(st.lists(st.text(max_size=9), max_size=30), st.integers(1, 40))
def test_blocks_lose_nothing_keep_the_order_and_are_no_larger_than_they_must_be(texts, max_bytes):
    found = list(blocks((Document(text, "", "") for text in texts), max_bytes))
    assert [d.text for block in found for d in block] == texts
    sizes = [[len(d.text.encode()) for d in block] for block in found]
    assert all(sum(block[:-1]) < max_bytes for block in sizes)
    assert all(sum(block) >= max_bytes for block in sizes[:-1])


@given(st.lists(st.text(max_size=3), max_size=30), st.integers(0, 3))
def test_the_order_within_a_block_follows_from_its_texts_alone(texts, seed):
    block = [Document(text, "", "") for text in texts]
    assert [d.text for d in mixed(block, seed)] == [d.text for d in mixed(block[::-1], seed)]
    assert sorted(d.text for d in mixed(block, seed)) == sorted(texts)


def test_copies_of_a_text_do_not_follow_each_other():
    texts = [d.text for d in mixed([Document(text, "", "") for text in "ab" * 50], 0)]
    n_runs = 1 + sum(a != b for a, b in itertools.pairwise(texts))
    assert 30 < n_runs < 70  # 51 expected of a random order; 2 if copies stood together
