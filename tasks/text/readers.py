"""Rows and documents from one file of a corpus, in the order in which they stand in it or, for Parquet, by shuffled row
groups."""

import contextlib
import io
import itertools
import random
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import pyarrow as pa

from tasks.errors import InputError
from tasks.storage.artifacts import parse_json
from tasks.storage.faults import FAULTS, reason_of
from tasks.storage.foreign import some, stream_parquet
from tasks.storage.page_sizes import most_bytes_per_row
from tasks.text.columns import check_columns, decoded, undecoded
from tasks.text.dates import day_of
from tasks.text.documents import Document, Form
from tasks.text.files import CorpusFile

Row = tuple[dict[str, Any], str]
"""Values by column, and where they stand, for errors."""

MAX_LINE_BYTES = 64 * 2**20
"""Of JSON lines; what Python makes of one can be twenty times as large."""
_BATCH_ROWS = 256
_BATCH_BYTES = 32 * 2**20
_PIECE_CHARACTERS = 16_384
_UTF8_BOM = b"\xef\xbb\xbf"


def read_documents(
    file: CorpusFile, form: Form, rng: random.Random | None = None, day: date | None = None
) -> Iterator[Document]:
    """All documents of a file; invalid UTF-8 is replaced, empty documents come with empty text.

    Args:
        file: what to read.
        form: which columns make a document.
        rng: shuffles the row groups of a Parquet file; None keeps their order.
        day: date of all documents, unless a column holds it.

    Raises:
        InputError: the file cannot be read or is damaged, or a column or key is missing or no text.
    """
    with _reading(file):
        if file.kind == ".txt":
            _refuse_columns(file, form)
            yield from _read_text(file, day)
            return
        for row, where in _rows(file, form, form.columns, form.column, rng):
            yield form.document(row, file.name, where, day)


def read_days(file: CorpusFile, form: Form, column: str) -> Iterator[date]:
    """The date of every document of a file, from a column; of Parquet files that column alone is read.

    Raises:
        InputError: as ``read_documents``; or a row has no date.
    """
    with _reading(file):
        if file.kind == ".txt":
            _refuse_columns(file, form)
        for row, where in _rows(file, form, [column], column, None):
            yield day_of(row[column], column, where)


@contextlib.contextmanager
def _reading(file: CorpusFile) -> Iterator[None]:
    try:
        yield
    except FAULTS as error:
        raise InputError(f"text.source: {file.uri} cannot be read: {reason_of(error)}.") from None


def _refuse_columns(file: CorpusFile, form: Form) -> None:
    for setting, is_set in (("chat_column", form.is_chat), ("date_column", form.date_column is not None)):
        if is_set:
            raise InputError(f"text.{setting} is set, but {file.uri} is plain text, which has no columns.")


def _rows(file: CorpusFile, form: Form, columns: Sequence[str], required: str, rng: random.Random | None) -> Iterator[Row]:
    return _parquet_rows(file, form, columns, rng) if file.kind == ".parquet" else _json_rows(file, required)


def _parquet_rows(file: CorpusFile, form: Form, columns: Sequence[str], rng: random.Random | None) -> Iterator[Row]:
    with file.open() as stream:
        parquet = stream_parquet(stream)
        check_columns(file.uri, parquet.schema_arrow, form)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        first = list(itertools.accumulate(sizes, initial=1))
        groups = list(range(len(sizes)))
        if rng is not None:
            rng.shuffle(groups)
        for group in groups:
            numbers = itertools.count(first[group])
            size = _batch_rows(most_bytes_per_row(stream, parquet.metadata.row_group(group), columns))
            for batch in parquet.iter_batches(size, row_groups=[group], columns=list(columns), use_threads=False):
                table = pa.Table.from_batches([batch]).cast(undecoded(batch.schema, form.date_column), safe=False)
                for row in table.to_pylist():
                    yield decoded(row), f"{file.uri}, row {next(numbers)}"


def _batch_rows(bytes_per_row: float) -> int:
    """Rows that are decoded at once: fewer where they may be long."""
    return min(_BATCH_ROWS, max(1, int(_BATCH_BYTES // max(1.0, bytes_per_row))))


def _json_rows(file: CorpusFile, required: str) -> Iterator[Row]:
    with io.BufferedReader(file.open()) as stream:
        for number, line in enumerate(_lines(stream, file.uri), 1):
            content = line.removeprefix(_UTF8_BOM) if number == 1 else line
            if content.strip():
                where = f"{file.uri}, line {number}"
                yield _json_object(content, required, where), where


def _lines(stream: io.BufferedReader, uri: str) -> Iterator[bytes]:
    """Lines of a bounded length: a small compressed file may unpack to one of any."""
    for number in itertools.count(1):
        line = stream.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{uri}, line {number}: the line is longer than {MAX_LINE_BYTES // 2**20} MiB; one JSON object a line was "
                "expected."
            )
        if not line:
            return
        yield line


def _json_object(line: bytes, required: str, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line.decode("utf-8", "replace"))
    except ValueError:
        raise InputError(f"{where}: the line is not valid JSON.") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: the line holds a {type(row).__name__}, not an object.")
    if required not in row:
        raise InputError(f"{where}: the object has no key {required!r}; it has {some(sorted(row)) or 'none'}.")
    return row


def _read_text(file: CorpusFile, day: date | None) -> Iterator[Document]:
    """A short file is one document; a long one is cut at line ends into documents of some 16 thousand characters.

    So that a single book can be split into train and eval, and a file of any size be read in little memory.
    """
    with io.TextIOWrapper(io.BufferedReader(file.open()), encoding="utf-8-sig", errors="replace", newline="") as stream:
        for part in itertools.count(1):
            piece = stream.read(_PIECE_CHARACTERS)
            piece += stream.readline(_PIECE_CHARACTERS)
            if not piece and part > 1:
                return
            whole = part == 1 and len(piece) < _PIECE_CHARACTERS
            yield Document(piece, file.name if whole else f"{file.name}, part {part}", file.name, day)
            if whole:
                return
