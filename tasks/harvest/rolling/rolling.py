"""Which window is harvested next, and which are deleted: the rules, without Ray.

A window is deleted when a durable checkpoint of the training lies beyond it, and only so many windows are stored at once
as fit the budget, so that a harvest that is ahead waits. All that a kill leaves behind is found again: checkpoints say
where training is, manifests which windows were whole, commit records which shards are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.activations.windows import is_consumed, steps_of
from tasks.harvest.named import COMMITS, commit_key, is_data_key
from tasks.harvest.rolling.ledger import WindowLedger, require_batch
from tasks.harvest.shards import Shard, committed
from tasks.storage.objects import open_store

# Between two looks at the checkpoints, which on S3 are requests.
_LOOK_S = 1.0


@dataclass
class Rolling:
    """The windows of one training on their way through storage."""

    ledger: WindowLedger
    at_once: int
    """Windows that may be stored at the same time."""
    context_length: int
    batch_rows: int
    n_steps: int
    """That training takes, for which windows are harvested, if need be in several passes."""
    passed: Callable[[], int]
    """The step of the furthest durable checkpoint: what lies before it is never read again."""
    _steps: dict[int, int] = field(default_factory=dict)
    """Of each window that is sealed."""
    _missing: dict[int, set[str]] = field(default_factory=dict)
    """Commit records that begun windows wait for."""
    _first: int = 0
    """The oldest window that is stored."""
    _next: int = 0
    """The next one to begin."""
    _looked: float = -_LOOK_S

    def __post_init__(self) -> None:
        """Find where the last run was, before training goes on.

        What nobody needs any more is removed, and what killed processes had begun to write.
        """
        self._steps = {number: steps_of(rows, self.batch_rows) for number, rows in self.ledger.sealed().items()}
        self._go_by(self.passed())
        self._next = self._first
        store = open_store(self.ledger.pool)
        for info in list(store.leftovers()):
            store.delete(info.key)
        self._sweep(0)
        there = committed(self.ledger.pool)
        for number in [number for number in self._steps if number >= self._first]:
            # Its rows or the checkpoint beyond them were lost, or there is room for fewer windows now: training must wait.
            whole = {shard.commit_key for shard in self.ledger.shards(number)} <= there
            if not whole or is_consumed(self.ledger.windows.uri(number)):
                self.ledger.unseal(number)
                del self._steps[number]

    @property
    def ahead(self) -> int:
        """Shards of the next window; 0 where there are windows for all steps, and all of them are sealed."""
        return 0 if self._sealed_steps() >= self.n_steps else len(self.ledger.shards(self._next))

    def begin(self) -> list[Shard]:
        """The missing shards of the next window, if there is room for it and training may need it; else none."""
        self._free()
        if self._next - self._first >= self.at_once or not self._may_be_needed():
            return []
        number, self._next = self._next, self._next + 1
        there = committed(self.ledger.pool)
        # By their records' keys: text that a window repeats is computed once.
        missing = {shard.commit_key: shard for shard in self.ledger.shards(number) if shard.commit_key not in there}
        self._missing[number] = set(missing)
        self._seal_whole()
        return list(missing.values())

    def stored(self, shard: Shard) -> None:
        """A shard is committed: seal the windows that have waited for it alone."""
        for missing in self._missing.values():
            missing.discard(shard.commit_key)
        self._seal_whole()

    def _seal_whole(self) -> None:
        for number in [number for number, missing in self._missing.items() if not missing]:
            self._steps[number] = steps_of(self.ledger.seal(number), self.batch_rows)
            del self._missing[number]
            require_batch(number, self._steps[number], self.batch_rows)

    def _free(self) -> None:
        """Delete the windows that a checkpoint lies beyond."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked, before = time.monotonic(), self._first
        self._go_by(self.passed())
        if self._first > before:
            self._sweep(before)

    def _go_by(self, step: int) -> None:
        while self._first in self._steps and sum(self._steps[i] for i in range(self._first + 1)) <= step:
            self._first += 1

    def _sweep(self, since: int) -> None:
        """Delete all shards but those of windows that are stored, or may be next: one may stand in several.

        Args:
            since: the first window that may be consumed and not be noted as such.

        Records before objects: no record may outlive what it names, since a harvest trusts records.
        """
        for number in range(since, self._first):
            self.ledger.consume(number)
        store = open_store(self.ledger.pool)
        live = {shard.commit_key for i in range(self.at_once) for shard in self.ledger.shards(self._first + i)}
        there = [info.key for info in store.list()]
        for key in there:
            if key.startswith(COMMITS) and key not in live:
                store.delete(key)
        for key in there:
            if is_data_key(key) and commit_key(key) not in live:
                store.delete(key)

    def _may_be_needed(self) -> bool:
        """Whether windows that are begun have too few steps, even if no token of those that are not sealed is left out."""
        begun = sum(sum(shard.n_sequences for shard in self.ledger.shards(number)) for number in self._missing)
        return self._sealed_steps() + steps_of(begun * self.context_length, self.batch_rows) < self.n_steps

    def _sealed_steps(self) -> int:
        return sum(self._steps.values())
