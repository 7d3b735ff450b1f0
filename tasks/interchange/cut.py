"""How the rows of activations are cut into files of codes: at row groups, so that none is read twice."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tasks.store.joined import AnySplit

SplitName = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class Span:
    """Rows [start, stop) of one shard: one of its row groups."""

    shard: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many they are."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class File:
    """One file of codes, and the rows that it is of."""

    key: str
    split: SplitName
    spans: tuple[Span, ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(span.rows for span in self.spans)


def cut(source: AnySplit, split: SplitName, file_rows: int) -> Iterator[File]:
    """Files of whole row groups, each with at least ``file_rows`` rows but for the last."""
    spans: list[Span] = []
    index, held = 0, 0
    for shard, entry in enumerate(source.shards):
        start = 0
        for rows in entry["row_groups"]:
            if rows:
                spans.append(Span(shard, start, start + rows))
            start, held = start + rows, held + rows
            if held >= file_rows:
                yield File(f"{split}/{index:05d}.parquet", split, tuple(spans))
                spans, index, held = [], index + 1, 0
    if spans:
        yield File(f"{split}/{index:05d}.parquet", split, tuple(spans))
