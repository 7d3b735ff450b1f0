"""A corpus as a stream of documents, from files or from a dataset on the Hugging Face hub, never whole in memory."""

import contextlib
import hashlib
import importlib.util
import itertools
import random
from collections.abc import Iterator
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HTTPError, RevisionResolutionError  # type: ignore[attr-defined]

from tasks.errors import InputError
from tasks.text.config import TextConfig
from tasks.text.files import find_files, looks_like_files
from tasks.text.order import SHUFFLE_BYTES, blocks, mixed, shuffled
from tasks.text.readers import Document, document_of, read_documents


def stream_documents(config: TextConfig) -> Iterator[Document]:
    """All documents of the corpus, in the order that ``config.shuffle_documents`` describes.

    Raises:
        InputError: the corpus does not exist, cannot be read, or lacks a column.
    """
    if not config.is_sample:
        return _in_order(config)
    rng = random.Random(config.seed)
    return shuffled(itertools.chain.from_iterable(_files(config, rng)), rng, SHUFFLE_BYTES)


def check_corpus(config: TextConfig) -> None:
    """Read the first document of the corpus, so that a wrong path or column is refused before work starts.

    Raises:
        InputError: as ``stream_documents``; or there is not a single document.
    """
    if next(itertools.chain.from_iterable(_files(config, None)), None) is None:
        raise InputError(f"text.source: {config.source} holds no document.")


def corpus_identity(config: TextConfig) -> str:
    """What changes when the corpus does: names and content of its files, or the dataset's name and commit.

    Local content is read and hashed (once per process and file); s3:// objects count by size and ETag.

    Raises:
        InputError: there is no such corpus.
    """
    source = _source(config)
    if not looks_like_files(source):
        return f"{source}@{_dataset_commit(source)}"
    lines = sorted(f"{file.name} {file.identity()}\n" for file in find_files(source))
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _source(config: TextConfig) -> str:
    if config.source is None:
        raise InputError("text.source is empty: name a corpus there.")
    return config.source


def _in_order(config: TextConfig) -> Iterator[Document]:
    for documents in _files(config, None):
        if config.shuffle_documents:
            for block in blocks(documents, SHUFFLE_BYTES):
                yield from mixed(block, config.seed)
        else:
            yield from documents


def _files(config: TextConfig, rng: random.Random | None) -> Iterator[Iterator[Document]]:
    """The documents of each file, shuffled as wholes where there is an rng; a dataset counts as one file."""
    source = _source(config)
    if not looks_like_files(source):
        yield _read_dataset(source, config)
        return
    files = find_files(source)
    if rng is not None:
        rng.shuffle(files)
    for file in files:
        yield read_documents(file, config, rng)


def _read_dataset(name: str, config: TextConfig) -> Iterator[Document]:
    for row in _open_dataset(name, config):
        for column in (config.column, *config.title_columns):
            if column not in row:
                raise InputError(f"Dataset {name} has no column {column!r}; it has {', '.join(row)}.")
        yield document_of(row, config, name, f"Dataset {name}")


def _open_dataset(name: str, config: TextConfig) -> Any:
    if importlib.util.find_spec("datasets") is None:
        raise InputError(
            f"text.source: {name} is no file or folder here; to read a Hugging Face dataset of that name, "
            "run `pip install datasets` first."
        )
    import datasets

    try:
        return datasets.load_dataset(name, split=config.hub_split, streaming=True)
    except (OSError, ValueError) as error:
        raise InputError(f"text.source: dataset {name} cannot be read: {' '.join(str(error).split())}.") from None


def _dataset_commit(name: str) -> str:
    with contextlib.suppress(RevisionResolutionError, HTTPError, OSError, ValueError):
        return str(huggingface_hub.HfApi().resolve_revision(name, repo_type="dataset").resolved)
    return "unknown"
