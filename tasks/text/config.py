"""Which text is read, and how it becomes sequences of tokens."""

from typing import ClassVar

from pydantic import Field

from tasks.settings import Settings


class TextConfig(Settings):
    """The corpus and its packing."""

    not_in_recipe: ClassVar[frozenset[str]] = frozenset({"source"})

    source: str | None = None
    """Path, glob or s3:// URI of .parquet, .jsonl[.gz|.zst] or .txt files, or the name of a Hugging Face dataset."""
    column: str = "text"
    """Column or JSON key that holds the text."""
    title_columns: list[str] = Field([])
    """Columns that name a document in the report, such as [president, year]."""
    hub_split: str = "train"
    """Split to read when the source is a Hugging Face dataset."""
    max_tokens: int | None = Field(None, ge=1)
    """Stop after this many tokens, train and eval together. Empty: the whole corpus."""
    context_length: int = Field(256, ge=2)
    """Tokens per sequence."""
    eval_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of documents held out, chosen by a hash of their text."""
    shuffle_documents: bool = True
    """Read documents in a seeded random order (a buffer of 64 MiB of text), so that max_tokens is a fair sample."""
    seed: int = Field(0, ge=0)
    """Seed of the order of documents."""
