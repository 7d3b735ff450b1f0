"""From a corpus to a tokens directory: packed sequences with the document of each token, and the split of each document."""

import hashlib
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.limits import check_tokens, check_vocabulary
from tasks.lm.load import known_tokens, load_tokenizer, model_identity
from tasks.progress import Listener, Progress, silent
from tasks.storage.artifacts import read_manifest, to_json, write_manifest
from tasks.storage.objects import open_store
from tasks.text.chat import ChatTemplate
from tasks.text.config import TextConfig
from tasks.text.corpus import Corpus, corpus_identity
from tasks.text.documents import Document
from tasks.text.encode import encode, padding_token_id, separator_and_prefix, special_token_ids
from tasks.text.messages import contents
from tasks.text.pack import Ids, Packer, Split, split_of, text_hash
from tasks.text.segments import Cuts
from tasks.text.writer import DocumentsWriter, SequencesWriter

FORMAT_VERSION = 2
SPLITS: tuple[Split, Split] = ("train", "eval")
_BATCH_CHARACTERS = 2**20  # guess: large enough to keep all cores busy, small enough to stop near max_tokens
_BATCH_DOCUMENTS = 1024
_SEEN_DIGITS = 32  # 128 bits: among 1e12 texts, two differ but agree in them with a probability of 1.5e-15


def tokenize(text: TextConfig, model: ModelConfig, out: str, listener: Listener) -> None:
    """Write the tokens directory of a corpus for a model's tokenizer; nothing if it is finished.

    Everything is made in a scratch folder first, so nothing is written where the corpus turns out to be too small.

    Raises:
        InputError: the corpus or the tokenizer cannot be read, the tokenizer is not the model's, or either split has less
            than one sequence.
    """
    if read_manifest(out) is not None:
        return
    began = time.monotonic()
    tokenizer = load_tokenizer(model)
    known = known_tokens(model)
    if known is not None:
        check_vocabulary(tokenizer, known)
    with tempfile.TemporaryDirectory(prefix="saemill-tokens-") as scratch:
        folder = Path(scratch)
        work = _Work(text, tokenizer, known, folder, listener)
        work.run()
        work.refuse_an_empty_split()
        tokenizer.save_pretrained(folder / "tokenizer")
        hashes = _publish(folder, out)
    seconds, n_tokens = time.monotonic() - began, sum(work.n_tokens.values())
    open_store(out).put("run.json", to_json({"seconds": seconds, "tokens_per_second": n_tokens / seconds}))
    recipe = {
        "text": text.recipe(),
        "model_identity": model_identity(model),
        "corpus_identity": corpus_identity(text),
    }
    write_manifest(out, {**work.facts(), "recipe": recipe, "sha256": hashes})


@dataclass(frozen=True, slots=True)
class Counted:
    """What the begin of a corpus comes to in tokens, or all that is wanted of it."""

    n_sequences: Mapping[Split, int]
    specials: int
    """Separators among their tokens."""
    whole: bool
    """Whether nothing more is to be read."""
    read_bytes: int
    """Of text in UTF-8."""
    stored_bytes: int
    """Of the tokens directory that these sequences make, but for its manifest."""
    tokenizer_seconds: float
    """Until the tokenizer was loaded."""
    seconds: float
    """From then on."""


def counted(text: TextConfig, model: ModelConfig, most_tokens: int) -> Counted:
    """Tokenize and pack as ``tokenize`` does, up to about ``most_tokens``, and keep nothing of it.

    Raises:
        InputError: the corpus or the tokenizer cannot be read.
    """
    began = time.monotonic()
    tokenizer = load_tokenizer(model)
    loaded = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="saemill-count-") as scratch:
        folder = Path(scratch)
        work = _Work(text, tokenizer, known_tokens(model), folder, silent)
        whole = work.run(most_tokens)
        seconds = time.monotonic() - loaded
        tokenizer.save_pretrained(folder / "tokenizer")
        stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    separators = sum(packer.n_separators for packer in work.packers.values())
    return Counted(dict(work.sequences.n_sequences), separators, whole, work.read_bytes, stored, loaded - began, seconds)


class _Work:
    """One pass over the corpus."""

    def __init__(self, config: TextConfig, tokenizer: Any, known: int | None, folder: Path, listener: Listener) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.known = known
        self.listener = listener
        self.separator, self.prefix = separator_and_prefix(tokenizer)
        self._refuse_unknown(token for token in (self.separator, self.prefix) if token is not None)
        render = contents if config.chat_column is None else ChatTemplate(tokenizer, self.prefix)
        self.corpus = Corpus(config, render)
        self.packers = {split: Packer(config.context_length, self.separator, self.prefix) for split in SPLITS}
        # A sample is another one whenever its corpus changes, so cuts would only cost tokens.
        self.cuts = None if config.is_sample else Cuts(config.context_length, config.segment_tokens)
        self.sequences = SequencesWriter(folder / "sequences.parquet", config.context_length)
        self.documents = DocumentsWriter(folder / "documents.parquet")
        self.n_documents: dict[Split, int] = {"train": 0, "eval": 0}
        self.document_tokens: dict[Split, int] = {"train": 0, "eval": 0}
        self.surplus: dict[Split, int] = {"train": 0, "eval": 0}
        self.empty_documents = 0
        self.duplicate_documents = 0
        self.read_bytes = 0
        """Of the text of all documents so far, in UTF-8."""
        self.seen: set[bytes] = set()  # 98 bytes per text, measured on 2 million
        self.began = self.told = time.monotonic()

    @property
    def n_tokens(self) -> dict[Split, int]:
        return {split: n * self.config.context_length for split, n in self.sequences.n_sequences.items()}

    @property
    def room(self) -> int | None:
        """Sequences that text.max_tokens leaves room for; None if there is no limit."""
        if self.config.max_tokens is None:
            return None
        return (self.config.max_tokens - sum(self.n_tokens.values())) // self.config.context_length

    def run(self, most_tokens: int | None = None) -> bool:
        """Read, tokenize and pack until the corpus or the room is at its end, or there are ``most_tokens``.

        Whether it came to one of the former.
        """
        whole = True
        with self.sequences, self.documents:
            for batch in _batches(self.corpus.documents()):
                self._take(batch)
                self._tell()
                if self.room == 0:
                    break
                if most_tokens is not None and sum(self.n_tokens.values()) >= most_tokens:
                    whole = False
                    break
            self._cut()
            self.sequences.finish()
            self.documents.finish()
        return whole

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the pass."""
        return {
            "format_version": FORMAT_VERSION,
            "stage": "tokens",
            "context_length": self.config.context_length,
            "n_sequences": self.sequences.n_sequences,
            "segments": self.sequences.segments,
            "n_tokens": self.n_tokens,
            "n_documents": self.n_documents,
            # document + separator + prefix tokens = n_tokens + dropped tail + surplus: nothing gets lost unseen.
            "document_tokens": self.document_tokens,
            "separator_tokens": {split: packer.n_separators for split, packer in self.packers.items()},
            "prefix_tokens": {split: packer.n_prefixes for split, packer in self.packers.items()},
            "dropped_tail_tokens": {split: packer.n_dropped for split, packer in self.packers.items()},
            "surplus_tokens": self.surplus,
            "empty_documents": self.empty_documents,
            "duplicate_documents": self.duplicate_documents,
            "window": self._window(),
            "truncated_by_max_tokens": self.room == 0,
            "separator_token_id": self.separator,
            "prefix_token_id": self.prefix,
            "special_token_ids": special_token_ids(self.tokenizer),
            "padding_token_id": padding_token_id(self.tokenizer),
            "vocab_size": len(self.tokenizer),
        }

    def refuse_an_empty_split(self) -> None:
        """Raise InputError, saying what to change, unless both splits have a sequence."""
        config, found = self.config, self.sequences.n_sequences
        if found["train"] and found["eval"]:
            return
        if not sum(self.n_documents.values()) and self.room != 0:
            raise InputError(f"text.source: {config.source} holds no text ({self.empty_documents} empty documents).")
        if sum(self.n_documents.values()) == 1 and self.room != 0:
            raise InputError(
                f"text.source: {config.source} holds one document, and held out are whole documents, so that nothing is "
                "left to train or to score on. Cut it into several rows or lines, or give it as one .txt file of more than "
                "16,384 characters, which is cut by itself."
            )
        short: Split = "eval" if found["train"] else "train"
        n_tokens = {split: self.n_tokens[split] + self.packers[split].n_dropped for split in SPLITS}
        few = f"less than one sequence of {config.context_length} tokens"
        if n_tokens[short] >= config.context_length:
            few = f"but no segment of it as much as a sequence of {config.context_length} tokens"
        more = f"Raise text.max_tokens (now {config.max_tokens})" if self.room == 0 else "Use more text"
        share = f"{'raise' if short == 'eval' else 'lower'} text.eval_fraction (now {config.eval_fraction:g})"
        raise InputError(
            f"The {short} split gets {n_tokens[short]} tokens from {self.n_documents[short]} of "
            f"{sum(self.n_documents.values())} documents, {few}. "
            f"{more}, {share}, or lower text.context_length."
        )

    def _take(self, batch: Sequence[Document]) -> None:
        fresh = [self._is_first(document) for document in batch]
        self.read_bytes += sum(len(document.text.encode()) for document in batch)
        encoded = iter(encode(self.tokenizer, [document.text for document in itertools.compress(batch, fresh)]))
        for document, is_first in zip(batch, fresh, strict=True):
            if self.room == 0:
                return
            if is_first:
                self._add(document, next(encoded))
            else:
                self.duplicate_documents += 1

    def _is_first(self, document: Document) -> bool:
        """Whether the document is to be kept: always, unless duplicates are to go and its text was there before."""
        if not self.config.deduplicate or not document.text:
            return True
        sha256 = bytes.fromhex(text_hash(document.text)[:_SEEN_DIGITS])
        n_before = len(self.seen)
        self.seen.add(sha256)
        return len(self.seen) > n_before

    def _add(self, document: Document, token_ids: Ids) -> None:
        if not len(token_ids):
            self.empty_documents += 1
            return
        if self.cuts is not None and self.cuts.before(document):
            self._cut()
        self._refuse_unknown([int(token_ids.max())])
        sha256 = text_hash(document.text)
        split = split_of(sha256, self.config.eval_fraction)
        index = sum(self.n_documents.values())
        self.n_documents[split] += 1
        self.document_tokens[split] += len(token_ids)
        self.documents.add(index, sha256, split, document.title, document.source, len(token_ids))
        ids, documents = self.packers[split].add(index, token_ids)
        room = self.room
        self.surplus[split] += ids[room:].size if room is not None else 0
        self.sequences.add(split, ids[:room], documents[:room])
        if self.cuts is not None and self.cuts.after(sha256, len(token_ids)):
            self._cut()

    def _refuse_unknown(self, token_ids: Iterable[int]) -> None:
        if self.known is not None:
            check_tokens(self.tokenizer, max(token_ids, default=-1), self.known)

    def _cut(self) -> None:
        for packer in self.packers.values():
            packer.cut()
        self.sequences.end_segment()

    def _window(self) -> dict[str, Any] | None:
        window = self.corpus.window
        if window is None:
            return None
        days = {"first_day": window.first.isoformat(), "last_day": window.last.isoformat()}
        # Files left out for the date in their path are not read, nor do they change the address: nothing is said of them.
        return {**days, "documents_left_out": None if self.config.date_column is None else self.corpus.n_outside}

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self.told < 1:
            return
        self.told = now
        done = sum(self.n_tokens.values())
        rate = done / (now - self.began)
        self.listener(Progress("tokens", done, max(done, self.config.max_tokens or 0), per_second=rate))


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _publish(folder: Path, out: str) -> dict[str, str]:
    """Put every file of a folder under ``out``; returns the SHA-256 of each by key."""
    store = open_store(out)
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = path.relative_to(folder).as_posix()
        data = np.memmap(path, np.uint8, "r").data
        hashes[key] = hashlib.sha256(data).hexdigest()
        store.put(key, data)
    return hashes
