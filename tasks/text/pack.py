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
    return "eval" if int(sha256[:16], 16) < eval_fraction * 2**64 else "train"


def text_hash(text: str) -> str:
    """SHA-256 of a text's UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class Packer:
    """Joins documents by a separator and cuts the stream into sequences; one packer per split.

    Each sequence begins with ``prefix`` where the model wants one (BOS), which takes one of its places. Every token
    is accounted for: n_tokens_in = tokens of documents + separators + prefixes = tokens of sequences + n_pending.
    """

    def __init__(self, context_length: int, separator: int | None = None, prefix: int | None = None) -> None:
        self._room = context_length - (prefix is not None)
        self._separator = separator
        self._prefix = prefix
        self._ids: list[Ids] = []
        self._documents: list[Ids] = []
        self._last_document: int | None = None
        self.n_pending = 0
        """Tokens that wait for a sequence to be full; what is left of them at the end is dropped."""

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
        self._append(document, token_ids)
        self._last_document = document
        n_full = self.n_pending // self._room
        if not n_full:
            return self._sequences(np.empty(0, np.int32), False), self._sequences(np.empty(0, np.int32), True)
        ids, documents = np.concatenate(self._ids), np.concatenate(self._documents)
        taken = n_full * self._room
        self._ids, self._documents, self.n_pending = [ids[taken:]], [documents[taken:]], len(ids) - taken
        return self._sequences(ids[:taken], False), self._sequences(documents[:taken], True)

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
