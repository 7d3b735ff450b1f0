"""What a run will come to: of each stage what it still needs, how long that takes, and of all what it costs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tasks.planner.needs import Need, StageName
from tasks.planner.speed import Speed, Speeds


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What is paid, in any one currency; None: nobody has said so."""

    per_hour: float | None = None
    """Of the machine, or of each card where a card is named."""
    per_gb_month: float | None = None
    """Of a billion bytes on storage for a month."""
    per_1000_puts: float | None = None
    """Of requests that write or list."""
    per_1000_gets: float | None = None


UNPRICED = Prices()
"""Nobody has said what anything costs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageForecast:
    """One stage of a run."""

    need: Need
    """From its begin to its end."""
    share: float
    """Of its work, what is still to be done; 0: it is finished."""
    bytes: int
    """That are still to be written."""
    speed: Speed | None
    """None: nothing is known of it."""

    @property
    def seconds(self) -> float | None:
        """That it still takes."""
        if not self.share:
            return 0.0
        return None if self.speed is None else self.speed.seconds(self.share * self.need.cost)

    @property
    def process_hours(self) -> float | None:
        """Of all of its processes together."""
        return None if self.seconds is None else self.seconds / 3600 * self.need.processes

    @property
    def requests(self) -> dict[str, int]:
        """To object storage, by verb."""
        return _requests(self.need, self.share)

    def to_json(self, processor: str) -> dict[str, Any]:
        """What ``plan --json`` says of it; ``processor``: what each process has of its own, cpu or gpu."""
        seconds, need = self.seconds, self.need
        return {
            "finished": not self.share,
            "tokens": need.tokens if self.share else 0,
            "rows": need.rows if self.share else 0,
            "bytes": self.bytes,
            "stored": dict(need.stored),
            "requests": self.requests,
            "peak_memory_bytes": need.memory_bytes,
            "processes": need.processes,
            "hours": None if seconds is None else seconds / 3600,
            f"{processor}_hours": self.process_hours,
            "from": None if self.speed is None else self.speed.source,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """A run as it is before it begins."""

    stages: Mapping[StageName, StageForecast]
    tokens: int
    """Of the text, or rows of the user's own."""
    how: str
    """Where their number is from."""
    begin_seconds: float
    """Until the first stage begins."""
    free_bytes: int | None
    """On storage; None: nobody knows, as of a bucket."""
    cards: int | None = None
    """How many of a named card are at work; None: it is this machine."""
    prices: Prices = UNPRICED

    @property
    def bytes(self) -> int:
        """That are still to be written."""
        return sum(stage.bytes for stage in self.stages.values())

    @property
    def left(self) -> list[StageName]:
        """Stages that are not finished."""
        return [name for name, stage in self.stages.items() if stage.share]

    @property
    def seconds(self) -> float | None:
        """That the run still takes; None: of a stage nothing is known."""
        if not self.left:
            return 0.0
        found = [stage.seconds for stage in self.stages.values()]
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) + self.begin_seconds if len(known) == len(found) else None

    @property
    def price(self) -> float | None:
        """Of machine, storage for a month, and requests, as far as prices are given; None: that of an hour is not."""
        seconds, prices = self.seconds, self.prices
        if seconds is None or prices.per_hour is None:
            return None
        requests = self.requests
        return (
            seconds / 3600 * (self.cards or 1) * prices.per_hour
            + self.bytes / 1e9 * (prices.per_gb_month or 0.0)
            + (requests["PUT"] + requests["LIST"]) / 1000 * (prices.per_1000_puts or 0.0)
            + requests["GET"] / 1000 * (prices.per_1000_gets or 0.0)
        )

    @property
    def requests(self) -> dict[str, int]:
        """To object storage, by verb; a folder has none."""
        found = [stage.requests for stage in self.stages.values()]
        return {verb: sum(each[verb] for each in found) for verb in ("PUT", "GET", "LIST")}

    def to_json(self) -> dict[str, Any]:
        """What ``plan --json`` prints; ``tokens``, ``bytes``, ``hours`` and ``price`` are its fixed names."""
        seconds = self.seconds
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "hours": None if seconds is None else seconds / 3600,
            "price": self.price,
            "prices": asdict(self.prices),
            "tokens_from": self.how,
            "free_bytes": self.free_bytes,
            "requests": self.requests,
            "begin_hours": self.begin_seconds / 3600,
            "cards": self.cards,
            "stages": {name: stage.to_json("cpu" if self.cards is None else "gpu") for name, stage in self.stages.items()},
        }


def forecast_stages(
    found: Mapping[StageName, Need], shares: Mapping[StageName, float], there: Mapping[StageName, int], speeds: Speeds
) -> dict[StageName, StageForecast]:
    """All stages, of which some are done or begun.

    Args:
        found: what each needs in all.
        shares: of its work, what is still to be done.
        there: bytes that it has stored already.
        speeds: of those that something is known of.
    """
    return {
        name: StageForecast(
            need=need,
            share=shares[name],
            bytes=max(0, need.bytes - there[name]) if shares[name] else 0,
            speed=speeds.get(name),
        )
        for name, need in found.items()
    }


def _requests(need: Need, share: float) -> dict[str, int]:
    return {"PUT": round(share * need.puts), "GET": round(share * need.gets), "LIST": need.lists if share else 0}
