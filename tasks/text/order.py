"""The order in which documents are read, so that neighbours in a file are not neighbours in training."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator

from tasks.text.documents import Document

SHUFFLE_BYTES = 64 * 2**20


def shuffled(documents: Iterator[Document], rng: random.Random, max_bytes: int) -> Iterator[Document]:
    """The same documents in random order, holding back at most ``max_bytes`` of text and one document."""
    held: list[tuple[Document, int]] = []
    n_bytes = 0
    for document in documents:
        size = len(document.text.encode())
        held.append((document, size))
        n_bytes += size
        while n_bytes > max_bytes:
            place = rng.randrange(len(held))
            held[place], held[-1] = held[-1], held[place]
            chosen, size = held.pop()
            n_bytes -= size
            yield chosen
    rng.shuffle(held)
    for document, _ in held:
        yield document


def blocks(documents: Iterator[Document], max_bytes: int) -> Iterator[list[Document]]:
    """The same documents in lists of at least ``max_bytes`` of text; only the last may hold less."""
    block: list[Document] = []
    n_bytes = 0
    for document in documents:
        block.append(document)
        n_bytes += len(document.text.encode())
        if n_bytes >= max_bytes:
            yield block
            block, n_bytes = [], 0
    if block:
        yield block


def mixed(block: list[Document], seed: int) -> list[Document]:
    """A block's documents in the order of a hash of seed and text: the same wherever the block stands in a corpus.

    Copies of a text are told apart by a count, or they would follow each other.
    """
    copies: Counter[str] = Counter()
    keyed = []
    for document in block:
        key = hashlib.sha256(f"{seed} {copies[document.text]} {document.text}".encode()).digest()
        copies[document.text] += 1
        keyed.append((key, document))
    return [document for _, document in sorted(keyed, key=lambda pair: pair[0])]
