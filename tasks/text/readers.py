"""Documents from one file of a corpus, in the order in which they stand in it or, for Parquet, by shuffled row groups."""

import io
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import InputError
from tasks.text.config import TextConfig
from tasks.text.files import CorpusFile

_BATCH_ROWS = 256
_PIECE_CHARACTERS = 16_384
_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus."""

    text: str
    title: str
    """What names it in the report: its title columns, joined by ', '."""
    source: str
    """Name of the file or dataset that it comes from."""
    day: date | None = None
    """Its date, where the corpus is read by dates."""


def read_documents(file: CorpusFile, config: TextConfig, rng: random.Random | None) -> Iterator[Document]:
    """All documents of a file; invalid UTF-8 is replaced, empty documents come with empty text.

    Args:
        file: what to read.
        config: which columns hold the text and the title.
        rng: shuffles the row groups of a Parquet file; None keeps their order.

    Raises:
        InputError: the file cannot be read or is damaged, or a column or key is missing or no text.
    """
    try:
        if file.kind == ".parquet":
            yield from _read_parquet(file, config, rng)
        elif file.kind == ".jsonl":
            yield from _read_jsonl(file, config)
        else:
            yield from _read_text(file)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"text.source: {file.uri} cannot be read: {reason}.") from None


def document_of(row: Mapping[str, Any], config: TextConfig, source: str, where: str) -> Document:
    """A document from named values.

    Raises:
        InputError: the value that should be the text is neither text nor null.
    """
    text = row[config.column]
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise InputError(f"{where}: text.column {config.column!r} holds {type(text).__name__}, not text.")
    titles = (row.get(name) for name in config.title_columns)
    title = ", ".join(_encodable(str(value)) for value in titles if value is not None)
    return Document(_encodable(text), title, source)


def _read_parquet(file: CorpusFile, config: TextConfig, rng: random.Random | None) -> Iterator[Document]:
    with file.open() as stream:
        parquet = pq.ParquetFile(stream)
        columns = list(dict.fromkeys([config.column, *config.title_columns]))
        _check_columns(file, parquet.schema_arrow, columns, config.column)
        groups = list(range(parquet.num_row_groups))
        if rng is not None:
            rng.shuffle(groups)
        for group in groups:
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                for row in pa.Table.from_batches([batch]).cast(_undecoded(batch.schema)).to_pylist():
                    decoded = {name: _decoded(value) for name, value in row.items()}
                    yield document_of(decoded, config, file.name, file.uri)


def _check_columns(file: CorpusFile, schema: pa.Schema, columns: Sequence[str], text: str) -> None:
    for column in columns:
        if column not in schema.names:
            raise InputError(f"{file.uri} has no column {column!r}; it has {', '.join(schema.names)}.")
    kind = schema.field(text).type
    if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
        raise InputError(f"{file.uri}: text.column {text!r} holds {kind}, not text.")


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return any(check(kind) for check in checks)


def _undecoded(schema: pa.Schema) -> pa.Schema:
    """Strings as bytes, since Arrow would raise at the first invalid UTF-8 rather than replace it."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    return pa.schema(
        [(field.name, pa.large_binary() if _is_text(kind) else kind) for field, kind in zip(schema, kinds, strict=True)]
    )


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _read_jsonl(file: CorpusFile, config: TextConfig) -> Iterator[Document]:
    with io.BufferedReader(file.open()) as stream:
        for number, line in enumerate(stream, 1):
            content = line.removeprefix(_UTF8_BOM) if number == 1 else line
            if content.strip():
                where = f"{file.uri}, line {number}"
                yield document_of(_json_object(content, config.column, where), config, file.name, where)


def _json_object(line: bytes, column: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise InputError(f"{where}: the line is not valid JSON.") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: the line holds a {type(row).__name__}, not an object.")
    if column not in row:
        raise InputError(f"{where}: the object has no key {column!r}; it has {', '.join(sorted(row)) or 'none'}.")
    return row


def _read_text(file: CorpusFile) -> Iterator[Document]:
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
            yield Document(piece, file.name if whole else f"{file.name}, part {part}", file.name)
            if whole:
                return


def _encodable(text: str) -> str:
    """JSON may spell half of a surrogate pair, which no tokenizer and no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
