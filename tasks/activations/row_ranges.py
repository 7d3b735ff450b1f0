"""Stretches of stored rows, as they are dealt out. Nothing here knows what a row is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows [start, stop) of one shard, or of a part of it."""

    shard: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Unit(RowRange):
    """Rows [start, stop) of one row group, the piece that is dealt to a lane."""

    row_group: int
