"""Which objects belong to an activations directory: those that its manifest and its commit records name."""

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tasks.activations.manifest import fault_of_hooks
from tasks.errors import ArtifactError, InputError
from tasks.storage.artifacts import MANIFEST, identity, parse_json, shards_uri
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store

COMMITS = "commits/"
# What Shard.data_key gives; the commit record of such an object follows from its key.
_DATA_KEY = re.compile(r"(?!\.{1,2}/)[^/\0]+/(train|eval)/([0-9a-f]{5,})-[0-9a-f]{12}\.parquet")
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class NamedObject:
    """What a manifest or a commit record says of one shard's rows at one hook."""

    key: str
    size: int
    sha256: str
    rows: int
    row_groups: list[int]

    @property
    def commit_key(self) -> str:
        """The commit record of this object's shard."""
        return commit_key(self.key)


def commit_key(data_key: str) -> str:
    """The key of the commit record that names ``data_key``.

    Raises:
        ValueError: no shard's rows have such a key.
    """
    match = _DATA_KEY.fullmatch(data_key)
    if match is None:
        raise ValueError(f"{data_key} is not the key of a shard's rows")
    return f"{COMMITS}{match.group(1)}-{match.group(2)}.json"


def is_data_key(key: str) -> bool:
    """Whether a harvest could have written the object: only such are ever removed."""
    return _DATA_KEY.fullmatch(key) is not None


def named_by_manifest(uri: str, data: bytes) -> dict[str, NamedObject]:
    """The objects that a manifest names, by key; a shard that stands in for two splits counts once.

    Raises:
        ValueError: the bytes are not the manifest of this directory; the text says why.
    """
    manifest = _object(data)
    recipe, hooks = manifest.get("recipe"), manifest.get("hooks")
    if manifest.get("stage") != "activations" or not isinstance(recipe, dict) or not isinstance(hooks, dict):
        raise ValueError("it is not an activations manifest")
    fault = fault_of_hooks(manifest)
    if fault is not None:
        raise ValueError(fault)
    if identity(uri) not in (uri, recipe.get("hash")):
        raise ValueError(f"it is of recipe {recipe.get('hash')}, the directory is that of {identity(uri)}")
    try:
        shards_uri(uri, manifest)
    except ArtifactError:
        raise ValueError(f"its shards lie in {manifest['shards']!r}, where no harvest puts them") from None
    return _by_key(e for hook in hooks.values() for split in hook["splits"].values() for e in split["shards"])


def named_by_commit(data: bytes) -> dict[str, NamedObject]:
    """The objects that a commit record names, by key.

    Raises:
        ValueError: the bytes are not a commit record.
    """
    objects = _object(data).get("objects")
    if not isinstance(objects, dict) or not objects:
        raise ValueError("it names no objects")
    return _by_key(objects.values())


@dataclass(frozen=True, slots=True)
class Lake:
    """An activations directory with the place where its shards lie."""

    home: ObjectStore
    """Holds the manifest."""
    shards: ObjectStore
    """Holds commit records and rows: a pool that other directories share, or ``home`` itself."""
    manifest: bytes | None
    """None where the directory is unfinished, or the pool itself was asked for."""

    @property
    def shared(self) -> bool:
        """Whether the shards are also other directories'."""
        return self.shards.uri != self.home.uri

    @property
    def is_pool(self) -> bool:
        """Whether this is a pool, which has no manifest of its own."""
        return PurePosixPath(self.home.uri).parent.name == "shards"

    def where(self, key: str) -> str:
        """The URI of one of its objects."""
        return f"{(self.home if key == MANIFEST else self.shards).uri}/{key}"


def open_lake(uri: str, shards: str | None = None) -> Lake:
    """An activations directory, or the pool of shards of several.

    Args:
        uri: the directory.
        shards: where its shards lie, for a directory whose manifest cannot tell because it is not there or is damaged.

    Raises:
        InputError: this is no activations directory at all.
    """
    home = open_store(uri)
    try:
        manifest = home.get(MANIFEST)
    except FileNotFoundError:
        found = Lake(home, open_store(shards or uri), None)
        if next(found.shards.list(COMMITS), None) is None:
            raise InputError(
                f"{home.uri} has neither {MANIFEST} nor {COMMITS}; the URI of an activations directory was expected, as "
                "saemill harvest prints it."
            ) from None
        return found
    with contextlib.suppress(ValueError, ArtifactError):
        return Lake(home, open_store(shards_uri(home.uri, _object(manifest))), manifest)
    return Lake(home, open_store(shards or uri), manifest)


def _by_key(entries: Iterable[Mapping[str, Any]]) -> dict[str, NamedObject]:
    try:
        found = [_named(entry) for entry in entries]
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"it lacks {error} of a shard") from None
    return {named.key: named for named in found}


def _named(entry: Mapping[str, Any]) -> NamedObject:
    key, sha256, groups = entry["key"], entry["sha256"], list(entry["row_groups"])
    commit_key(key)
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"it says of {key} that its SHA-256 is {str(sha256)[:80]!r}, which is none")
    numbers = [entry["size"], entry["rows"], *groups]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"it says of {key} that its size, rows and row groups are {str(numbers)[:80]}")
    return NamedObject(key, entry["size"], sha256, entry["rows"], groups)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except ValueError as error:
        raise ValueError(f"it {error}") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - damage, not a type that a caller got wrong
    return value
