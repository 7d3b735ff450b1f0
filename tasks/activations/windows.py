"""Windows of a harvest: stretches of it that are trained on one after another, each an activations directory of its own.

Their number goes on beyond the last shard with the first: where training goes through the harvest more than once, each
pass has windows of its own.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.activations.manifest import require_hooks
from tasks.storage.artifacts import MANIFEST, read_manifest, require_manifest
from tasks.storage.objects import open_store

CONSUMED = "consumed"
"""In the manifest of a window that training has gone beyond: its shards by hook."""
_GONE = "gone"
"""In the manifest of one that stays whole for its statistics: training has gone beyond it."""
_TOLD = ("key", "rows", "sha256")


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


def rows_of(uri: str) -> int | None:
    """Training rows of a window, be they there or gone; None where it is not whole yet.

    Raises:
        ArtifactError: its manifest is damaged.
    """
    found = read_manifest(uri)
    if found is None:
        return None
    if CONSUMED in found:
        return int(found["rows"])
    rows: int = next(iter(require_hooks(uri, found).values()))["splits"]["train"]["rows"]
    return rows


def shards_of(uri: str) -> dict[str, list[dict[str, Any]]]:
    """Key, rows and SHA-256 of each shard of training rows of a directory, by hook; none where it is unfinished.

    Raises:
        ArtifactError: its manifest is damaged.
    """
    found = read_manifest(uri)
    if found is None:
        return {}
    if CONSUMED in found:
        return dict(found[CONSUMED])
    entries = {hook: entry["splits"]["train"]["shards"] for hook, entry in require_hooks(uri, found).items()}
    return {hook: [{name: shard[name] for name in _TOLD} for shard in shards] for hook, shards in entries.items()}


def consume(uri: str) -> None:
    """Put in place of a window's manifest a small one, which tells what was there: its rows are about to be deleted.

    Raises:
        ArtifactError: the manifest is damaged.
    """
    slim = {CONSUMED: shards_of(uri), "rows": rows_of(uri)}
    open_store(uri).put(MANIFEST, json.dumps(slim, sort_keys=True).encode())


def mark_gone(uri: str) -> None:
    """Note in a window's manifest, of which all stays, that its rows are about to be deleted.

    Raises:
        ArtifactError: the manifest is damaged.
    """
    marked = {**require_manifest(uri), _GONE: True}
    open_store(uri).put(MANIFEST, json.dumps(marked, sort_keys=True).encode())


def is_consumed(uri: str) -> bool:
    """Whether a window's rows may be gone, as training has no need of them any more.

    Raises:
        ArtifactError: the manifest is damaged.
    """
    found = read_manifest(uri) or {}
    return CONSUMED in found or _GONE in found


def window_seed(seed: int, number: int) -> int:
    """Seed of the order of a window's rows; another for each, so that two passes do not bring them in the same order."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def steps_of(rows: int, batch_rows: int) -> int:
    """Whole batches of a window; what is left of its rows, less than a batch, fills none."""
    return rows // batch_rows
