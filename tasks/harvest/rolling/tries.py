"""The shards of a rolling harvest, of which more come as there is room for them."""

import threading

from typing_extensions import override

from tasks.harvest.pool.tries import Tries
from tasks.harvest.rolling.rolling import Rolling
from tasks.harvest.shards import Shard


class RollingTries(Tries):
    """Takes the shards of a window when those of the one before are at work, and there is room."""

    def __init__(self, rolling: Rolling, max_attempts: int, stopped: threading.Event) -> None:
        super().__init__([], max_attempts)
        self._rolling, self._stopped = rolling, stopped

    @property
    @override
    def left(self) -> int:
        """Shards that are waiting, at work, or to come; none once the harvest is told to stop."""
        if self._stopped.is_set():
            return 0
        return super().left + (0 if self.has_given_up else self._rolling.ahead)

    @override
    def next(self, *, idle: bool) -> Shard | None:
        if not self.waiting and not self.has_given_up:
            self.add(self._rolling.begin())
        return super().next(idle=idle)

    @override
    def done(self, shard: Shard) -> None:
        super().done(shard)
        # Each pass harvests it anew, and what befell it in one is not held against it in the next.
        for counts in (self._begun, self._raised, self._died):
            del counts[shard]
        self._rolling.stored(shard)
