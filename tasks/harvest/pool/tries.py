"""Which shard is tried next, and which is given up: the rules, without Ray.

What a shard raises is its own doing. The death of an actor need not be: a node goes, or memory runs out because of
another shard. So a shard whose actor died is tried again alone in an actor, after all others, and only deaths in which
it was alone count, and less than what it raises: a harvest outlasts hundreds of kills, yet ends when one shard kills
every actor that it meets.
"""

import logging
import random
from collections import Counter, deque
from collections.abc import Sequence

from tasks.errors import SaemillError
from tasks.harvest.shards import Shard

logger = logging.getLogger(__name__)

# At a rate of kills that strikes every third attempt, one in 20,000 innocent shards dies this often with 3 attempts.
_DEATHS_PER_ATTEMPT = 3
_NAMED = 5


class Tries:
    """The shards of a harvest that are waiting, at work, stored or given up."""

    def __init__(self, shards: Sequence[Shard], max_attempts: int) -> None:
        self._waiting: deque[Shard] = deque()
        self._suspects: deque[Shard] = deque()
        self._max_attempts = max_attempts
        self._left = self._total = 0
        self._begun: Counter[Shard] = Counter()
        self._raised: Counter[Shard] = Counter()
        self._died: Counter[Shard] = Counter()
        self._given_up: dict[Shard, str] = {}
        self.add(_from_anywhere(shards))

    def add(self, shards: Sequence[Shard]) -> None:
        """More of them, which come after those that are waiting."""
        self._waiting.extend(shards)
        self._left += len(shards)
        self._total += len(shards)

    @property
    def waiting(self) -> int:
        """Shards that are waiting for their first try, or were put back by no fault of theirs."""
        return len(self._waiting)

    @property
    def has_given_up(self) -> bool:
        """Whether any shard is not tried again."""
        return bool(self._given_up)

    @property
    def left(self) -> int:
        """Shards that are waiting or at work."""
        return self._left

    def next(self, *, idle: bool) -> Shard | None:
        """The shard that an actor should begin; an ``idle`` one may get a suspect, and must then get no other."""
        waiting = self._waiting or (self._suspects if idle else None)
        if not waiting:
            return None
        shard = waiting.popleft()
        self._begun[shard] += 1
        return shard

    def suspected(self, shard: Shard) -> bool:
        """Whether an actor died of the shard, or beside it."""
        return shard in self._died

    def attempt(self, shard: Shard) -> int:
        """How often it was begun, now included."""
        return self._begun[shard]

    def done(self, shard: Shard) -> None:
        """It is stored."""
        self._left -= 1

    def failed(self, shard: Shard, reason: str) -> None:
        """It raised an error."""
        self._raised[shard] += 1
        if self._raised[shard] >= self._max_attempts:
            self._give_up(shard, f"failed {self._raised[shard]} times, at last with: {reason}")
        else:
            self._again(shard, reason, self._suspects if self.suspected(shard) else self._waiting)

    def died(self, shards: list[Shard], reason: str) -> None:
        """The actor that had them died."""
        for shard in shards:
            # In company it becomes a suspect, no more; the key says so.
            self._died[shard] += len(shards) == 1 and self.suspected(shard)
            if self._died[shard] >= _DEATHS_PER_ATTEMPT * self._max_attempts:
                self._give_up(shard, f"killed its actor {self._died[shard]} times, at last with: {reason}")
            else:
                self._again(shard, reason, self._suspects)

    def put_back(self, shards: list[Shard], reason: str) -> None:
        """They were not finished, by no fault of theirs."""
        for shard in shards:
            self._again(shard, reason, self._suspects if self.suspected(shard) else self._waiting)

    def raise_if_given_up(self) -> None:
        """Raise what the user must know of shards that were given up.

        Raises:
            SaemillError: it names the shards, why each was given up, and the remedy.
        """
        if not self._given_up:
            return
        named = [f"{shard.name} {reason}" for shard, reason in list(self._given_up.items())[:_NAMED]]
        more = len(self._given_up) - len(named)
        raise SaemillError(
            f"{len(self._given_up):,} of {self._total:,} shards were given up; all others are stored. {'; '.join(named)}"
            f"{f'; and {more:,} more' if more else ''}. "
            "Mend the cause and give the same command again: it tries only what is missing."
        )

    def _again(self, shard: Shard, reason: str, queue: deque[Shard]) -> None:
        logger.warning("shard %s is tried again: %s", shard.name, reason)
        queue.append(shard)

    def _give_up(self, shard: Shard, reason: str) -> None:
        logger.warning("shard %s is given up: it %s", shard.name, reason)
        self._given_up[shard] = reason
        self._left -= 1


def _from_anywhere(shards: Sequence[Shard]) -> list[Shard]:
    """Eval's shards, then train's from a random one on.

    Two commands that harvest the same text at once would otherwise compute each shard at the same moment; so each
    meets what the other has stored, and skips it.
    """
    train = [shard for shard in shards if shard.split == "train"]
    cut = random.randrange(len(train)) if train else 0
    return [shard for shard in shards if shard.split != "train"] + train[cut:] + train[:cut]
