"""An append-only list of records, each an object of its own with its number in the name: ``<folder>/00000001.json``, ...

One file to which lines are appended would have to be read and written again as a whole, under the condition that nobody did
so meanwhile: S3 has that condition (If-Match), folders have not, and a kill in mid-write may take lines with it. Creating an
object that must not be there yet is what both can do in one step (``put_if_absent``), and every run tries first whether its
server can. So number n + 1 is given to exactly one of those who saw n as the last: that is the compare-and-swap, and no kill
leaves anything but the list as it was or the list with one record more.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic

from tasks.errors import ArtifactError
from tasks.registry.records import Record, stored
from tasks.storage.base import ObjectStore

_KEY = re.compile(r"([0-9]{8,})\.json")
_READERS = 16


@dataclass(frozen=True, slots=True)
class NumberedLog(Generic[Record]):
    """Records of one kind in a folder of a store."""

    kind: type[Record]
    store: ObjectStore
    folder: str

    def numbers(self) -> list[int]:
        """The numbers of all records, in order."""
        prefix = f"{self.folder}/"
        found = (_KEY.fullmatch(info.key.removeprefix(prefix)) for info in self.store.list(prefix))
        return sorted(int(match.group(1)) for match in found if match)

    def last(self) -> int:
        """The number of the newest record; 0 where there is none."""
        return max(self.numbers(), default=0)

    def get(self, number: int) -> Record | None:
        """The record of a number; None where there is none.

        Raises:
            ArtifactError: it is damaged.
        """
        return stored(self.kind, self.store, self._key(number))

    def at(self, number: int) -> Record:
        """The record of a number that another record names.

        Raises:
            ArtifactError: it is not there, or damaged.
        """
        found = self.get(number)
        if found is None:
            raise ArtifactError(
                f"{self.store.uri}/{self._key(number)} is missing, though records are never removed. Restore it from a copy."
            )
        return found

    def all(self) -> Iterator[tuple[int, Record]]:
        """Every record with its number, in order; read by many at once, as reading is mostly waiting.

        Raises:
            ArtifactError: one is damaged.
        """
        numbers = self.numbers()
        with ThreadPoolExecutor(_READERS) as pool:
            yield from zip(numbers, pool.map(self.at, numbers), strict=True)

    def append(self, number: int, record: Record) -> bool:
        """Store a record under the number after the last one; False where another record has it by now."""
        return self.store.put_if_absent(self._key(number), record.to_bytes())

    def _key(self, number: int) -> str:
        return f"{self.folder}/{number:08d}.json"
