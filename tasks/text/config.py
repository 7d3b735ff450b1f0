"""Which text is read, and how it becomes sequences of tokens."""

from typing import ClassVar

from pydantic import Field

from tasks.settings import MOST, PathText, Seed, Settings


class TextConfig(Settings):
    """The corpus and its packing."""

    not_in_recipe: ClassVar[frozenset[str]] = frozenset({"source"})

    source: PathText | None = Field(None, min_length=1)
    """Path, glob or s3:// URI of .parquet, .jsonl[.gz|.zst] or .txt files, or the name of a Hugging Face dataset."""
    column: str = "text"
    """Column or JSON key that holds the text."""
    chat_column: str | None = None
    """Column or JSON key that holds conversations, lists of messages with role and content, in place of column. The
    tokenizer's own chat template makes text of them; where it writes the date of today, it writes 26 July 2024."""
    title_columns: list[str] = Field([])
    """Columns that name a document in the report, such as [president, year]."""
    hub_split: str = "train"
    """Split to read when the source is a Hugging Face dataset."""
    max_tokens: int | None = Field(None, ge=1, le=MOST)
    """Stop after this many tokens, train and eval together. Empty: the whole corpus, in segments (see segment_tokens)."""
    window_days: int | None = Field(None, ge=1, le=1_000_000)
    """Read only documents of the last so many days up to the newest date in the corpus. Empty: all documents."""
    date_column: str | None = None
    """Column or JSON key with the date of each document: a date, a time or ISO 8601 text. Empty: where window_days is
    set, the date stands in the path of each file, as 2026-11-20, 20261120 or 2026/11/20. Documents of one file are read
    day by day (within blocks of 64 MiB), and packing begins anew with each day."""
    deduplicate: bool = False
    """Leave out documents whose text was there before. Takes about 100 bytes of memory per document. Which of several
    copies is kept depends on all that is read before it, so a change of the corpus may then change other files' segments.
    """
    context_length: int = Field(256, ge=2, le=2**24)
    """Tokens per sequence."""
    eval_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of documents held out, chosen by a hash of their text."""
    segment_tokens: int = Field(262_144, ge=1, le=MOST)
    """Packing begins anew after about this many tokens and between large files, at places that depend only on the text
    nearby. So a file more or less changes few sequences, and only those are harvested again. Each segment drops half a
    sequence of each split in the mean: raise it for contexts of several thousand tokens."""
    shuffle_documents: bool = True
    """Read documents in a seeded random order. Without max_tokens: file by file in order of their names, documents
    shuffled within blocks of 64 MiB of a file, so that other files do not change a file's order. With max_tokens: files,
    Parquet row groups and documents (in a buffer of 64 MiB) of the whole corpus shuffled, so that the part that is read
    is a fair sample of it; any change of the corpus then changes all sequences. Off: as they stand in the files."""
    seed: Seed = 0
    """Seed of the order of documents."""

    @property
    def is_sample(self) -> bool:
        """Whether a random part of the corpus is read, in one segment, rather than file by file from its beginning."""
        return self.shuffle_documents and self.max_tokens is not None
