"""A run's account: what its stages took, told beside what was foretold, and kept for the next forecast."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flows.addresses import Addresses, Placed
from flows.config import PipelineConfig
from flows.planning import keys
from flows.stored_bytes import stored_bytes
from tasks.errors import SaemillError
from tasks.planner.accounts import Account, StageAccount, write_account
from tasks.planner.forecast import Forecast, StageForecast
from tasks.planner.needs import STAGES, StageName
from tasks.planner.sizes import RunSize
from tasks.planner.words import accounted
from tasks.storage.artifacts import read_json
from tasks.storage.objects import open_store

logger = logging.getLogger("tasks.pipeline")  # below "tasks", whose records are shown


@dataclass(slots=True)
class Watched:
    """A run under way: what was foretold of it, and what its stages have taken so far."""

    config: PipelineConfig
    at: Addresses
    size: RunSize
    forecast: Forecast
    began: float
    """Of the run, by ``time.monotonic``."""
    seconds: dict[StageName, float] = field(default_factory=dict)
    before: dict[StageName, int] = field(default_factory=dict)
    """Bytes that a stage had stored when it began."""
    begin_seconds: float | None = None

    def call(self, stage: Placed, call: Callable[[Placed], None]) -> None:
        """Give a stage to ``call``, and see how long it takes."""
        name = STAGES.get(stage.name)
        if name is None or stage.finished:
            call(stage)
            return
        began = time.monotonic()
        self.begin_seconds = began - self.began if self.begin_seconds is None else self.begin_seconds
        self.before[name] = stored_bytes(self.at, stage)
        call(stage)
        self.seconds[name] = time.monotonic() - began

    def close(self, chain: Sequence[Placed]) -> str | None:
        """Keep the account of a run that has done something, and tell it in a line; None where all was there.

        Where it cannot be made or stored, as on a disk that is full by now, the run is no worse for that.
        """
        try:
            return self._close(chain)
        except (SaemillError, OSError) as error:
            logger.warning("the account of this run is not kept: %s", error)
            return None

    def _close(self, chain: Sequence[Placed]) -> str | None:
        by_name = {STAGES[stage.name]: stage for stage in chain if stage.name in STAGES}
        done = {name: by_name[name] for name in self.seconds if by_name[name].finished}
        if not done:
            return None
        seconds = time.monotonic() - self.began
        taken = {name: stored_bytes(self.at, stage) - self.before[name] for name, stage in done.items()}
        account = Account(
            at=time.strftime("%Y-%m-%d %H:%M"),
            name=self.config.name,
            planned_seconds=self.forecast.seconds,
            planned_bytes=self.forecast.bytes,
            seconds=seconds,
            begin_seconds=self.begin_seconds or 0.0,
            bytes=sum(taken.values()),
            stages=self._whole(done, taken),
            hooks=None if self.size.corpus is None else list(self.config.harvest.hooks),
            size=replace(self.size, model=None),
        )
        try:
            write_account(open_store(self.config.storage).uri, account)
        except (SaemillError, OSError) as error:  # what was taken can be told all the same
            logger.warning("the account of this run is not kept: %s", error)
        return accounted(account.planned_seconds, account.planned_bytes, seconds, account.bytes)

    def _whole(self, done: Mapping[StageName, Placed], taken: Mapping[StageName, int]) -> dict[StageName, StageAccount]:
        """Of the stages that were done from their begin to their end, which tell a speed.

        Where rows do not stay, harvest and training tell none: the one's work is in the other, with waits for each other.
        """
        found, of_stages = {}, keys(self.config)
        mixed = set[StageName]() if self.config.harvest.keep == "all" else {"harvest", "training"}
        for name, stage in done.items():
            if name in mixed:
                continue
            timings = read_json(stage.out, "run.json") or {}
            if self.forecast.stages[name].share == 1 and not timings.get("shards_found"):
                fixed = _fixed(name, timings, self.forecast.stages[name], self.seconds[name])
                found[name] = StageAccount(seconds=self.seconds[name], fixed=fixed, bytes=taken[name], key=of_stages[name])
        return found


def _fixed(name: StageName, timings: Mapping[str, Any], stage: StageForecast, seconds: float) -> float:
    """Of a stage's seconds, those that did not depend on its size: of harvest and training, until they were at work."""
    busy = None
    if name == "training":
        busy = timings.get("training_seconds")
    elif name == "harvest" and stage.need.tokens and timings.get("tokens_per_second"):
        busy = stage.need.tokens / timings["tokens_per_second"]
    return 0.0 if busy is None else max(0.0, seconds - busy)
