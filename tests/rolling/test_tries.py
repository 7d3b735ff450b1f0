"""How often a shard of a rolling harvest is tried, which comes again in each pass."""

import threading
from typing import Any

from tasks.harvest.rolling.tries import RollingTries
from tasks.harvest.shards import Shard

SHARD = Shard("train", f"{0:016x}", 0, 4)


class OneShard:
    """Windows of the same shard without end."""

    ahead = 1

    def begin(self) -> list[Shard]:
        return [SHARD]

    def stored(self, shard: Shard) -> None:
        pass


def test_what_befell_a_shard_in_one_pass_is_not_held_against_it_in_the_next() -> None:
    rolling: Any = OneShard()
    tries = RollingTries(rolling, max_attempts=2, stopped=threading.Event())
    for _ in range(5):
        assert tries.next(idle=True) == SHARD
        assert tries.attempt(SHARD) == 1
        tries.failed(SHARD, "a hiccup")
        assert tries.next(idle=True) == SHARD
        tries.died([SHARD], "a kill")
        assert tries.next(idle=True) is not None
        tries.done(SHARD)
        assert not tries.suspected(SHARD)
    assert not tries.has_given_up
