"""Windows of a harvest: stretches of it that are trained on one after another, each an activations directory of its own.

Their number goes on beyond the last shard with the first: where training goes through the harvest more than once, each
pass has windows of its own.
"""

import re
from dataclasses import dataclass

import numpy as np

from tasks.storage.objects import open_store


@dataclass(frozen=True, slots=True)
class WindowUris:
    """Where the windows of one training lie."""

    prefix: str
    """URI with which those of all of them begin."""

    def uri(self, number: int) -> str:
        """The directory of a window; its manifest comes when all its rows are there."""
        return f"{self.prefix}.{number:06d}"

    def there(self) -> list[int]:
        """Numbers of the windows of which anything is stored, in order."""
        folder, _, name = self.prefix.rpartition("/")
        found = (re.match(r"\.(\d{6,})/", info.key.removeprefix(name)) for info in open_store(folder).list(f"{name}."))
        return sorted({int(number[1]) for number in found if number is not None})


def window_seed(seed: int, number: int) -> int:
    """Seed of the order of a window's rows; another for each, so that two passes do not bring them in the same order."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def steps_of(rows: int, batch_rows: int) -> int:
    """Whole batches of a window; what is left of its rows, less than a batch, fills none."""
    return rows // batch_rows
