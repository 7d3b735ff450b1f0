"""How full a storage is, by how much it grows from night to night, and when it will be full at that rate."""

import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.registry.inventory import Inventory
from tasks.registry.registry import Registry
from tasks.storage.base import ObjectInfo
from tasks.storage.objects import open_store

_MOST_NIGHTS = 30
_SAME_NIGHT = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class StorageForecast:
    """What is stored, and what will be."""

    by_stage: dict[str, int]
    """Bytes below each folder of the root."""
    nights: int
    """How many nights the growth was measured over."""
    per_night: float | None
    """Bytes that a night adds, the median; None before the second night."""
    free: int | None
    """Bytes that may still be written; None where nobody knows, as on S3."""

    @property
    def full_in_nights(self) -> float | None:
        """Nights until nothing is free; None where it is not known or does not grow."""
        if not self.per_night or self.free is None:
            return None
        return self.free / self.per_night


def storage_forecast(there: Inventory, registry: Registry) -> StorageForecast:
    """Forecast from what a storage holds and from the dates of a registry's versions.

    What a night has added is what still lies there of all that was written after the version before and up to its own.

    Raises:
        ArtifactError: a record is damaged.
    """
    dates = [version.when for _, version in registry.versions.all()]
    added = added_by_night(there.objects, dates)[-_MOST_NIGHTS:]
    by_stage = Counter[str]()
    for info in there.objects:
        by_stage[info.key.partition("/")[0]] += info.size
    per_night = statistics.median(added) if added else None
    return StorageForecast(dict(sorted(by_stage.items())), len(added), per_night, open_store(there.root).free_bytes())


def added_by_night(objects: Sequence[ObjectInfo], dates: Sequence[datetime]) -> list[int]:
    """Bytes of the objects that each night but the first has added; versions within hours of each other are of one night."""
    ends: list[datetime] = []
    for date in sorted(dates):
        if ends and date - ends[-1] < _SAME_NIGHT:
            ends[-1] = date
        else:
            ends.append(date)
    seconds = [end.timestamp() for end in ends]
    added = [0] * len(seconds)
    for info in objects:
        night = bisect_left(seconds, info.modified)
        if night < len(seconds):
            added[night] += info.size
    return added[1:]
