"""What is written down of windows: each is sealed by a manifest of its own, which outlives its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from tasks.activations.windows import WindowUris, consume, is_consumed, mark_gone, rows_of, steps_of
from tasks.errors import InputError
from tasks.harvest.commit import hook_entries, manifest
from tasks.harvest.shards import Shard
from tasks.storage.artifacts import MANIFEST, identity, relative, write_manifest
from tasks.storage.objects import open_store


@dataclass(frozen=True, slots=True)
class WindowLedger:
    """The windows of one training, in their order."""

    windows: WindowUris
    plan: Sequence[Sequence[Shard]]
    """Training shards of each window of one pass through the harvest."""
    pool: str
    """Where shards and their commit records lie."""
    dtype: str

    def shards(self, number: int) -> Sequence[Shard]:
        """Of a window; after the last one of a pass comes the first again."""
        return self.plan[number % len(self.plan)]

    def rows(self, number: int) -> int | None:
        """Training rows of a window that is sealed; None where it is not.

        Raises:
            ArtifactError: its manifest is damaged.
        """
        return rows_of(self.windows.uri(number))

    def consume(self, number: int) -> None:
        """Note that training needs a window no more, before its rows go. The first one's statistics are needed to the end.

        Raises:
            ArtifactError: its manifest is damaged.
        """
        uri = self.windows.uri(number)
        if not is_consumed(uri):
            (consume if number > 0 else mark_gone)(uri)

    def sealed(self) -> dict[int, int]:
        """Rows of each window that is sealed, by number.

        Raises:
            ArtifactError: a manifest is damaged.
        """
        rows = {number: self.rows(number) for number in self.windows.there()}
        return {number: found for number, found in rows.items() if found is not None}

    def unseal(self, number: int) -> None:
        """Forget that a window was whole."""
        open_store(self.windows.uri(number)).delete(MANIFEST)

    def seal(self, number: int) -> int:
        """Write the manifest of a window whose shards are all committed, unless it is there; its rows.

        Raises:
            InputError: the masks leave no rows of it.
            ArtifactError: a commit record is missing or damaged, or the manifest is there with other shards.
        """
        there = self.rows(number)
        if there is not None:
            return there
        hooks = hook_entries(self.pool, self.shards(number), self.dtype)
        if not _rows(hooks):
            raise InputError(
                f"The harvest's masks leave no rows of window {number}. Loosen harvest.drop_* or raise train.window_tokens."
            )
        uri = self.windows.uri(number)
        write_manifest(uri, manifest({"hash": identity(self.pool)}, hooks, shards=relative(self.pool, uri)))
        return _rows(hooks)


def seal_enough(ledger: WindowLedger, n_steps: int, batch_rows: int) -> None:
    """Seal so many windows of a finished harvest that training has all its steps, if need be in several passes.

    Raises:
        InputError: no window fills a batch, or the masks leave no rows of one.
    """
    steps = 0
    for number in count():
        if steps >= n_steps:
            return
        steps += steps_of(ledger.seal(number), batch_rows)
        require_batch(number, steps, batch_rows)


def require_batch(number: int, steps: int, batch_rows: int) -> None:
    """Refuse windows of less than a batch.

    Raises:
        InputError: the first one is, with which nothing can begin.
    """
    if number == 0 and not steps:
        raise InputError(
            f"The first window has fewer rows than train.batch_tokens ({batch_rows:,}). Raise train.window_tokens."
        )


def _rows(hooks: Mapping[str, Any]) -> int:
    rows: int = next(iter(hooks.values()))["splits"]["train"]["rows"]
    return rows
