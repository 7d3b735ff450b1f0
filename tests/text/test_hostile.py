"""Corpora that are large in another way than they look, and columns of every kind."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import InputError
from tasks.storage.page_sizes import most_bytes_per_row
from tasks.text import readers
from tasks.text.config import TextConfig
from tasks.text.corpus import Corpus, check_corpus
from tasks.text.readers import _batch_rows

TEXTS = ["a b c", "d e f", "g"]
KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]


@pytest.mark.parametrize("kind", [*KINDS, "dictionary"], ids=str)
def test_text_of_any_kind_of_column_is_read(kind: pa.DataType | str, tmp_path: Path) -> None:
    column = pa.array(TEXTS).dictionary_encode() if kind == "dictionary" else pa.array(TEXTS, kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    config = TextConfig(source=str(tmp_path / "a.parquet"), shuffle_documents=False)
    assert [document.text for document in Corpus(config).documents()] == TEXTS


def test_two_columns_of_the_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([TEXTS, TEXTS], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"2 columns named 'text', and text\.column cannot say which"):
        check_corpus(TextConfig(source=str(tmp_path)))


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def zstandard(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, "zstd", asbytes=True)
    return packed


@pytest.mark.parametrize("suffix, packed", [("", bytes), (".gz", gzipped), (".zst", zstandard)])
def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    suffix: str, packed: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 2**20)
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed(b'{"text": "x"}\n' + b"a" * 2**21))
    config = TextConfig(source=str(tmp_path), shuffle_documents=False)
    with pytest.raises(InputError, match="line 2: the line is longer than 1 MiB"):
        list(Corpus(config).documents())


def test_long_rows_are_decoded_few_at_a_time(tmp_path: Path) -> None:
    for length, expected in ((10, 256), (4 * 2**20, 8)):
        table = pa.table({"text": [f"{n}" * length for n in range(10)], "other": ["x"] * 10})
        pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, compression="none")
        assert batch_rows(tmp_path / "a.parquet", "text") == pytest.approx(expected, abs=1)
        assert batch_rows(tmp_path / "a.parquet", "other") == 256


def batch_rows(path: Path, column: str) -> int:
    with pa.OSFile(str(path)) as stream:
        return _batch_rows(most_bytes_per_row(stream, pq.ParquetFile(path).metadata.row_group(0), [column]))


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_dictionary_counts_for_every_row_that_may_refer_to_it(compression: str, version: str, tmp_path: Path) -> None:
    """325 bytes were read as 2,000 rows of 2 MB each, 256 of them at once."""
    table = pa.table({"text": ["x" * 2_000_000] * 500, "a.text": ["x" * 2_000_000] * 500, "short": ["a", "b"] * 250})
    options = {"dictionary_pagesize_limit": 2**30, "compression": compression, "data_page_version": version}
    pq.write_table(table, tmp_path / "a.parquet", **options)
    assert batch_rows(tmp_path / "a.parquet", "text") == 2**25 // 2_000_004
    assert batch_rows(tmp_path / "a.parquet", "a.text") == 2**25 // 2_000_004
    assert batch_rows(tmp_path / "a.parquet", "short") == 256
    config = TextConfig(source=str(tmp_path), shuffle_documents=False)
    assert sum(1 for _ in zip(range(40), Corpus(config).documents(), strict=False)) == 40


def test_values_that_begin_as_those_before_them_count_whole(tmp_path: Path) -> None:
    table = pa.table({"text": ["x" * 2_000_000] * 100})
    options = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}, "compression": "zstd"}
    pq.write_table(table, tmp_path / "a.parquet", **options)
    assert batch_rows(tmp_path / "a.parquet", "text") <= 2**25 // 2_000_000


def test_a_column_without_rows_or_with_lists_is_measured_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    assert list(Corpus(TextConfig(source=str(tmp_path / "empty.parquet"))).documents()) == []
    pq.write_table(pa.table({"text": [["x" * 2**20] * 4] * 9}), tmp_path / "lists.parquet")
    assert batch_rows(tmp_path / "lists.parquet", "text") <= 8


def test_json_nested_too_deep_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ' + "[" * 100_000)
    with pytest.raises(InputError, match="line 1: the line is not valid JSON"):
        check_corpus(TextConfig(source=str(tmp_path)))
