"""Documents from a dataset on the Hugging Face hub, streamed."""

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HTTPError, RevisionResolutionError  # type: ignore[attr-defined]

from tasks.errors import InputError
from tasks.text.dates import day_of
from tasks.text.documents import Document, Form


def read_documents(name: str, split: str, form: Form) -> Iterator[Document]:
    """All documents of a split of a dataset.

    Raises:
        InputError: the dataset cannot be read or lacks a column, or the library that reads it is not installed.
    """
    for row, where in _rows(name, split, form.columns):
        yield form.document(row, name, where, None)


def read_days(name: str, split: str, column: str) -> Iterator[date]:
    """The date of every document, from a column; the whole dataset is streamed for it.

    Raises:
        InputError: as ``read_documents``; or a row has no date.
    """
    for row, where in _rows(name, split, [column]):
        yield day_of(row[column], column, where)


def commit(name: str) -> str:
    """The commit that a dataset's name stands for now, or 'unknown' where the hub does not say."""
    with contextlib.suppress(RevisionResolutionError, HTTPError, OSError, ValueError):
        return str(huggingface_hub.HfApi().resolve_revision(name, repo_type="dataset").resolved)
    return "unknown"


def _rows(name: str, split: str, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], str]]:
    for number, row in enumerate(_open(name, split), 1):
        for column in columns:
            if column not in row:
                raise InputError(f"Dataset {name} has no column {column!r}; it has {', '.join(row)}.")
        yield row, f"Dataset {name}, row {number}"


def _open(name: str, split: str) -> Any:
    if importlib.util.find_spec("datasets") is None:
        raise InputError(
            f"text.source: {name} is no file or folder here; to read a Hugging Face dataset of that name, "
            "run `pip install datasets` first."
        )
    import datasets

    try:
        return datasets.load_dataset(name, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise InputError(f"text.source: dataset {name} cannot be read: {' '.join(str(error).split())}.") from None
