"""Rows of a pool that only activations which are about to be removed name: which they are, and their removal.

A pool keeps the shards of many activations directories. The commit record of a shard goes before its rows: a kill in between
leaves rows that nothing names, which ``gc`` removes.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import ArtifactError
from tasks.harvest.gc import MIN_AGE_S
from tasks.harvest.named import COMMITS, NamedObject, is_data_key, named_by_manifest
from tasks.storage.artifacts import MANIFEST, require_manifest, resolve, shards_uri, to_json
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store

Named = Mapping[str, NamedObject]


@dataclass(frozen=True, slots=True)
class Released:
    """What of a pool goes with some activations."""

    pool: ObjectStore
    records: list[str]
    """Keys of commit records."""
    rows: list[str]
    """Keys of the rows that they name."""
    size: int
    """Bytes of the rows."""

    def remove(self) -> None:
        """Remove the records, and then the rows."""
        for key in (*self.records, *self.rows):
            self.pool.delete(key)


@dataclass(frozen=True, slots=True)
class PoolNames:
    """Which objects of pools are named by whom; a manifest is read once, as it never changes while it is there."""

    _read: dict[str, tuple[str, Named]] = field(default_factory=dict)

    def released(self, uri: str, manifest: Mapping[str, Any], gone: Collection[str] = ()) -> Released | None:
        """The shards that one activations directory keeps in a pool and that no other one names, which are listed anew.

        Args:
            uri: the directory, whose manifest may be gone already.
            manifest: what it says, or said.
            gone: directories that do not count any more, though they may be there.

        Returns:
            None where the rows lie in the directory itself.

        Raises:
            ArtifactError: a manifest is damaged, so that nobody knows what it names.
        """
        pool = open_store(shards_uri(uri, manifest))
        if pool.uri == open_store(uri).uri:
            return None
        kept = {found.commit_key for named in self._of_others(pool, {*gone, uri}) for found in named.values()}
        own = {key: found for key, found in _named(uri, manifest).items() if found.commit_key not in kept}
        records = sorted({found.commit_key for found in own.values()})
        return Released(pool, records, sorted(own), sum(found.size for found in own.values()))

    def harvested_lately(self, uri: str, going: Mapping[str, Mapping[str, Any]]) -> str | None:
        """An object younger than a day in the pool of a directory that nothing names yet: a harvest may be at work there.

        Args:
            uri: the directory, one of ``going``; where its rows lie in it, nobody else is at work there.
            going: manifests of all directories that are about to be removed, of which some may be gone already.

        Raises:
            ArtifactError: as ``released``.
        """
        pool, oldest = open_store(shards_uri(uri, going[uri])), time.time() - MIN_AGE_S
        if pool.uri == open_store(uri).uri:
            return None
        young = [info.key for info in pool.list() if info.modified >= oldest and _is_of_shard(info.key)]
        if not young:
            return None
        named: set[str] = set()
        of_going = (_named(home, manifest) for home, manifest in going.items())
        for names in (*of_going, *self._of_others(pool, going)):
            named |= names.keys() | {found.commit_key for found in names.values()}
        return next((f"{pool.uri}/{key}" for key in young if key not in named), None)

    def _of_others(self, pool: ObjectStore, beside: Collection[str]) -> Iterator[Named]:
        """What directories that keep their shards in this pool name, but for those of ``beside``."""
        root = open_store(resolve("../..", pool.uri))
        for info in root.list("activations/"):
            home, _, name = f"{root.uri}/{info.key}".rpartition("/")
            if name != MANIFEST or home in beside:
                continue
            if home not in self._read:
                manifest = require_manifest(home)
                self._read[home] = open_store(shards_uri(home, manifest)).uri, _named(home, manifest)
            where, named = self._read[home]
            if where == pool.uri:
                yield named


def _is_of_shard(key: str) -> bool:
    return key.startswith(COMMITS) or is_data_key(key)


def _named(uri: str, manifest: Mapping[str, Any]) -> Named:
    try:
        return named_by_manifest(uri, to_json(manifest))
    except ValueError as error:
        raise ArtifactError(
            f"{uri}/{MANIFEST} is damaged ({error}), so what it names is not known and nothing was removed. saemill verify "
            f"{uri} names all that is damaged."
        ) from None
