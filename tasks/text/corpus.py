"""A corpus as a stream of documents, from files or from a dataset on the Hugging Face hub, never whole in memory."""

import hashlib
import itertools
import random
from collections.abc import Iterator
from datetime import date

from tasks.errors import InputError
from tasks.text import hub
from tasks.text.config import TextConfig
from tasks.text.dates import Window, path_day
from tasks.text.documents import Document, Form
from tasks.text.files import CorpusFile, find_files, looks_like_files, named
from tasks.text.messages import Render, contents
from tasks.text.order import SHUFFLE_BYTES, blocks, mixed, shuffled
from tasks.text.readers import read_days, read_documents


class Corpus:
    """The documents of ``config.source``, or those of them that lie in its window of days.

    Args:
        config: what to read, and in which order.
        render: makes text of the messages of a conversation.

    Raises:
        InputError: the corpus does not exist, or lacks the dates by which it is to be read.
    """

    def __init__(self, config: TextConfig, render: Render = contents) -> None:
        self._config = config
        self._form = Form(config, render)
        self._source = _source(config)
        self._files, self.window = _files_and_window(config, self._form)
        self.n_outside = 0
        """Documents read so far that the window leaves out; files that their path's date leaves out are not read."""

    def documents(self) -> Iterator[Document]:
        """All documents, in the order that ``config.shuffle_documents`` describes.

        Raises:
            InputError: a file cannot be read, or lacks a column.
        """
        if not self._config.is_sample:
            return self._in_order()
        rng = random.Random(self._config.seed)
        documents = itertools.chain.from_iterable(self._by_file(rng))
        return shuffled(self._inside(documents), rng, SHUFFLE_BYTES)

    def _in_order(self) -> Iterator[Document]:
        for documents in self._by_file(None):
            # Blocks are made of all documents of a file, so that they stay the same when the window moves.
            for block in blocks(documents, SHUFFLE_BYTES):
                ordered = mixed(block, self._config.seed) if self._config.shuffle_documents else block
                yield from self._inside(sorted(ordered, key=lambda document: document.day or date.min))

    def _by_file(self, rng: random.Random | None) -> Iterator[Iterator[Document]]:
        """The documents of each file, shuffled as wholes where there is an rng; a dataset counts as one file."""
        if self._files is None:
            yield hub.read_documents(self._source, self._config.hub_split, self._form)
            return
        files = list(self._files)
        if rng is not None:
            rng.shuffle(files)
        for file in files:
            yield read_documents(file, self._form, rng, self._path_day(file))

    def _path_day(self, file: CorpusFile) -> date | None:
        return path_day(file.uri) if _dated_by_path(self._config) else None

    def _inside(self, documents: Iterator[Document] | list[Document]) -> Iterator[Document]:
        for document in documents:
            if self.window is None or document.day in self.window:
                yield document
            else:
                self.n_outside += 1


def check_corpus(config: TextConfig) -> None:
    """Read the first document of the corpus, so that a wrong path or column is refused before work starts.

    Raises:
        InputError: as ``Corpus``; or there is not a single document.
    """
    source, form = _source(config), Form(config, contents)
    if not looks_like_files(source):
        if config.window_days is not None:
            _required_date_column(config)
        documents = hub.read_documents(source, config.hub_split, form)
    else:
        files, _ = _files_by_path(config)
        documents = itertools.chain.from_iterable(read_documents(file, form) for file in files)
    if next(documents, None) is None:
        raise InputError(f"text.source: {config.source} holds no document.")


def corpus_identity(config: TextConfig) -> str:
    """What changes when the corpus does: names and content of its files, or the dataset's name and commit.

    Local content is read and hashed (once per process and file); s3:// objects count by size and ETag. Files that the
    window leaves out, for the date in their path, do not count.

    Raises:
        InputError: there is no such corpus.
    """
    source = _source(config)
    if not looks_like_files(source):
        return f"{source}@{hub.commit(source)}"
    files, window = _files_by_path(config)
    days = {file.uri: f" {path_day(file.uri)}" if window is not None else "" for file in files}
    lines = sorted(f"{file.name} {file.identity()}{days[file.uri]}\n" for file in files)
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _source(config: TextConfig) -> str:
    if config.source is None:
        raise InputError("text.source is empty: name a corpus there.")
    return config.source


def _dated_by_path(config: TextConfig) -> bool:
    return config.window_days is not None and config.date_column is None


def _files_and_window(config: TextConfig, form: Form) -> tuple[list[CorpusFile] | None, Window | None]:
    """The files to read (None for a dataset), and the days to read of them."""
    source = _source(config)
    files, window = _files_by_path(config) if looks_like_files(source) else (None, None)
    if config.window_days is None or window is not None:
        return files, window
    column = _required_date_column(config)
    if files is None:
        days = hub.read_days(source, config.hub_split, column)
    else:
        days = itertools.chain.from_iterable(read_days(file, form, column) for file in files)
    last = max(days, default=None)
    return files, Window.ending_on(last, config.window_days) if last is not None else None


def _files_by_path(config: TextConfig) -> tuple[list[CorpusFile], Window | None]:
    """The files of the corpus, those in the window alone where it goes by the dates in their paths."""
    files = find_files(_source(config))
    if config.window_days is None or config.date_column is not None:
        return files, None
    days = {file.uri: _required_day(file) for file in files}
    window = Window.ending_on(max(days.values()), config.window_days)
    return named([uri for uri, day in days.items() if day in window]), window


def _required_date_column(config: TextConfig) -> str:
    if config.date_column is None:
        raise InputError(
            f"text.window_days is set, but the dataset {config.source} has no paths with dates: name a column that holds "
            "dates in text.date_column."
        )
    return config.date_column


def _required_day(file: CorpusFile) -> date:
    day = path_day(file.uri)
    if day is None:
        raise InputError(
            f"text.window_days is set, but there is no date in the path {file.uri}. Put one there, such as 2026-11-20 "
            "or 2026/11/20, or name a column that holds dates in text.date_column."
        )
    return day
