"""Removal of what killed harvests left behind: rows that no commit record names, and half-written files."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.artifacts import MANIFEST
from tasks.errors import ArtifactError
from tasks.harvest.named import COMMITS, is_data_key, named_by_commit, named_by_manifest, require_activations
from tasks.store.objects import LocalStore, ObjectInfo, ObjectStore, open_store

# A harvest that is at work has stored rows that it has not committed yet; no shard takes that long.
MIN_AGE_S = 24 * 3600.0
_LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed or, in a dry run, would be."""

    uri: str
    dry_run: bool
    removed: list[ObjectInfo]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(info.size for info in self.removed)


def gc(uri: str, *, dry_run: bool = False) -> Collected:
    """Remove unreferenced rows and leftovers older than a day from a finished or unfinished activations directory.

    Nothing but what a harvest writes is removed: never a commit record, a manifest or a file of the user's own.

    Raises:
        InputError: ``uri`` is no activations directory.
        ArtifactError: the manifest or a commit record is damaged, so nobody knows what it names; nothing was removed.
    """
    store = open_store(uri)
    require_activations(store)
    # Listed before the names are read: what is committed in between is named, and what is written in between is young.
    there = [info for info in store.list() if is_data_key(info.key)]
    named = _named(store)
    candidates = [*(info for info in there if info.key not in named), *_leftovers(store)]
    oldest_kept = time.time() - MIN_AGE_S
    removed = []
    for info in candidates:
        # Asked again just before: a harvest may have written the same content anew, and be about to commit it.
        now = store.head(info.key)
        if now is not None and now.modified < oldest_kept:
            removed.append(now)
            if not dry_run:
                store.delete(info.key)
    return Collected(store.uri, dry_run, removed)


def _named(store: ObjectStore) -> set[str]:
    named: set[str] = set()
    key = MANIFEST
    try:
        manifest = require_activations(store)
        if manifest is not None:
            named |= named_by_manifest(store.uri, manifest).keys()
        for info in store.list(COMMITS):
            key = info.key
            named |= named_by_commit(store.get(key)).keys()
    except ValueError as error:
        raise ArtifactError(
            f"{store.uri}/{key} is damaged ({error}), so what it names is not known and nothing was removed. "
            f"saemill verify {store.uri} names all that is damaged."
        ) from None
    return named


def _leftovers(store: ObjectStore) -> Iterator[ObjectInfo]:
    """Files that a killed process had begun to write on local disk; S3 shows no such thing."""
    if isinstance(store, LocalStore):
        for folder in ("", "*/", "*/*/"):  # where a harvest writes: the directory, commits/, <hook>/<split>/
            for path in sorted(Path(store.uri).glob(f"{folder}.tmp-*")):
                info = store.head(path.relative_to(store.uri).as_posix())
                if info is not None and _LEFTOVER.fullmatch(path.name):
                    yield info
