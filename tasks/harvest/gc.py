"""Removal of what killed harvests left behind: rows that no commit record names, and half-written files."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.errors import ArtifactError
from tasks.harvest.named import COMMITS, Lake, is_data_key, named_by_commit, named_by_manifest, open_lake
from tasks.storage.artifacts import MANIFEST, resolve
from tasks.storage.base import ObjectInfo, ObjectStore
from tasks.storage.objects import open_store

# A harvest that is at work has stored rows that it has not committed yet; no shard takes that long.
MIN_AGE_S = 24 * 3600.0


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
    """Remove unreferenced rows and leftovers older than a day from where an activations directory keeps its shards.

    Nothing but what a harvest writes is removed: never a commit record, a manifest or a file of the user's own.

    Args:
        uri: a finished or unfinished activations directory, or a pool of shards.
        dry_run: only say what would be removed.

    Raises:
        InputError: ``uri`` is no activations directory.
        ArtifactError: a manifest or a commit record is damaged, so nobody knows what it names; nothing was removed.
    """
    lake = open_lake(uri)
    store = lake.shards
    # Listed before the names are read: what is committed in between is named, and what is written in between is young.
    there = [info for info in store.list() if is_data_key(info.key)]
    named = _named(lake)
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


def _named(lake: Lake) -> set[str]:
    named: set[str] = set()
    where = ""
    try:
        for home, manifest in _manifests(lake):
            where = f"{home}/{MANIFEST}"
            named |= named_by_manifest(home, manifest).keys()
        for info in lake.shards.list(COMMITS):
            where = f"{lake.shards.uri}/{info.key}"
            named |= named_by_commit(lake.shards.get(info.key)).keys()
    except ValueError as error:
        raise ArtifactError(
            f"{where} is damaged ({error}), so what it names is not known and nothing was removed. "
            f"saemill verify {lake.home.uri} names all that is damaged."
        ) from None
    return named


def _manifests(lake: Lake) -> Iterator[tuple[str, bytes]]:
    """The manifests that may name what lies there: the directory's own or, of a pool, those of all that share it.

    Raises:
        ValueError: one of them is not JSON, so that it may name anything.
    """
    if lake.manifest is not None:
        yield lake.home.uri, lake.manifest
    if not (lake.shared or lake.is_pool):
        return
    root = open_store(resolve("../..", lake.shards.uri))
    for info in root.list("activations/"):
        home, _, name = f"{root.uri}/{info.key}".rpartition("/")
        if name == MANIFEST and home != lake.home.uri and open_lake(home).shards.uri == lake.shards.uri:
            yield home, root.get(info.key)


def _leftovers(store: ObjectStore) -> Iterator[ObjectInfo]:
    """Files that a killed process had begun to write, where a harvest writes: the directory, commits/, <hook>/<split>/."""
    found = (info for info in store.leftovers() if info.key.count("/") < 3)
    yield from sorted(found, key=lambda info: (info.key.count("/"), info.key))
