"""Packing: documents of any length become sequences of one length, without padding."""

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "eval"]
Ids = npt.NDArray[np.int32]


def split_of(sha256: str, eval_fraction: float) -> Split:
    """The split of a document, from the hash of its text alone: equal texts never fall on both sides.

    Args:
        sha256: as ``text_hash`` gives it.
        eval_fraction: expected share of documents held out, in (0, 1).
    """
    return "eval" if fraction_of(sha256[:16]) < eval_fraction else "train"


def fraction_of(digits: str) -> float:
    """Sixteen hex digits of a hash as a number in [0, 1]: evenly spread, and always the same for the same text."""
    return int(digits, 16) / 2**64


def text_hash(text: str) -> str:
    """SHA-256 of a text's UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class Packer:
    """Joins documents by a separator and cuts the stream into sequences; one packer per split.

    Each sequence begins with ``prefix`` where the model wants one (BOS), which takes one of its places. Every token
    is accounted for: tokens of documents + n_separators + n_prefixes = tokens of sequences + n_dropped + n_pending.
    """

    def __init__(self, context_length: int, separator: int | None = None, prefix: int | None = None) -> None:
        self._room = context_length - (prefix is not None)
        self._separator = separator
        self._prefix = prefix
        self._ids: list[Ids] = []
        self._documents: list[Ids] = []
        self._last_document: int | None = None
        self.n_pending = 0
        """Tokens that wait for a sequence to be full."""
        self.n_dropped = 0
        """Tokens that waited in vain, since packing began anew."""
        self.n_separators = 0
        """Separators put between documents."""
        self.n_prefixes = 0
        """Prefixes put before sequences."""

    def add(self, document: int, token_ids: Ids) -> tuple[Ids, Ids]:
        """Append a document; its separator from the one before counts as the end of the one before.

        Args:
            document: index of the document.
            token_ids: [n], n >= 0.

        Returns:
            Sequences that are now full, [n_full, context_length]: token ids, and the document of each token. A
            prefix belongs to the document of the token behind it.
        """
        if self._separator is not None and self._last_document is not None:
            self._append(self._last_document, np.array([self._separator], np.int32))
            self.n_separators += 1
        self._append(document, token_ids)
        self._last_document = document
        n_full = self.n_pending // self._room
        if not n_full:
            return self._sequences(np.empty(0, np.int32), False), self._sequences(np.empty(0, np.int32), True)
        ids, documents = np.concatenate(self._ids), np.concatenate(self._documents)
        taken = n_full * self._room
        self.n_prefixes += n_full if self._prefix is not None else 0
        self._ids, self._documents, self.n_pending = [ids[taken:]], [documents[taken:]], len(ids) - taken
        return self._sequences(ids[:taken], False), self._sequences(documents[:taken], True)

    def cut(self) -> None:
        """Begin anew: drop the tokens that wait, and put no separator before the next document."""
        self.n_dropped += self.n_pending
        self._ids, self._documents, self.n_pending, self._last_document = [], [], 0, None

    def _append(self, document: int, token_ids: Ids) -> None:
        self._ids.append(token_ids)
        self._documents.append(np.full(len(token_ids), document, np.int32))
        self.n_pending += len(token_ids)

    def _sequences(self, values: Ids, are_documents: bool) -> Ids:
        rows = values.reshape(-1, self._room)
        if self._prefix is None:
            return rows
        first = rows[:, :1] if are_documents else np.full((len(rows), 1), self._prefix, np.int32)
        return np.concatenate([first, rows], axis=1)
