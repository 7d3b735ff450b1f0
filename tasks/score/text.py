"""The text of held-out sequences: what each token reads as, and which document it is from."""

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int32, Shaped

from tasks.storage.objects import open_store
from tasks.text.stored import read_sequences
from tasks.token_strings import load_strings


@dataclass(frozen=True, slots=True)
class Text:
    """The text of a run of sequences."""

    first: int
    """The first of them."""
    strings: Shaped[np.ndarray, "sequences context"]
    """The string of each token."""
    document: Int32[np.ndarray, "sequences context"]
    """The document of each token."""
    titles: dict[int, str]
    """Of all documents."""

    @property
    def context_length(self) -> int:
        """Tokens per sequence."""
        return int(self.strings.shape[1])


def read_text(tokens: str, first: int, n: int) -> Text:
    """The text of sequences ``first`` to ``first + n`` of a tokens directory.

    Raises:
        ArtifactError: the directory does not hold them, or its tokenizer is damaged.
    """
    names = load_strings(tokens)
    strings = [names.of_sequence(token_ids) for token_ids in read_sequences(tokens, first, n).tolist()]
    listed = pq.read_table(open_store(tokens).open("documents.parquet"), columns=["document", "title"], use_threads=False)
    titles = dict(zip(listed["document"].to_pylist(), listed["title"].to_pylist(), strict=True))
    return Text(first, np.array(strings, dtype=object), read_sequences(tokens, first, n, column="document"), titles)
