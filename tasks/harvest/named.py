"""Which objects of an activations directory are named, by its manifest and by its commit records."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.artifacts import MANIFEST, identity
from tasks.errors import InputError
from tasks.store.objects import ObjectStore

COMMITS = "commits/"
# What Shard.data_key gives; the commit record of such an object follows from its key.
_DATA_KEY = re.compile(r"[^/]+/(train|eval)/(\d{5,})-[0-9a-f]{12}\.parquet")


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
    if identity(uri) not in (uri, recipe.get("hash")):
        raise ValueError(f"it is of recipe {recipe.get('hash')}, the directory is that of {identity(uri)}")
    try:
        entries = [e for hook in hooks.values() for split in hook["splits"].values() for e in split["shards"]]
    except (KeyError, TypeError, AttributeError):
        raise ValueError("it does not list its shards") from None
    return _by_key(entries)


def named_by_commit(data: bytes) -> dict[str, NamedObject]:
    """The objects that a commit record names, by key.

    Raises:
        ValueError: the bytes are not a commit record.
    """
    objects = _object(data).get("objects")
    if not isinstance(objects, dict) or not objects:
        raise ValueError("it names no objects")
    return _by_key(objects.values())


def require_activations(store: ObjectStore) -> bytes | None:
    """The manifest's bytes, or None where the directory is unfinished.

    Raises:
        InputError: this is no activations directory at all.
    """
    try:
        return store.get(MANIFEST)
    except FileNotFoundError:
        if next(store.list(COMMITS), None) is None:
            raise InputError(
                f"{store.uri} has neither {MANIFEST} nor {COMMITS}; the URI of an activations directory was expected, as "
                "saemill harvest prints it."
            ) from None
        return None


def _by_key(entries: Iterable[Mapping[str, Any]]) -> dict[str, NamedObject]:
    try:
        found = [NamedObject(e["key"], int(e["size"]), e["sha256"], int(e["rows"]), list(e["row_groups"])) for e in entries]
        for named in found:
            commit_key(named.key)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error} of a shard") from None
    return {named.key: named for named in found}


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        raise ValueError("it is not valid JSON") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - damage, not a type that a caller got wrong
    return value
