"""Verdicts on versions: what the gates said of one, beside the version and never changed."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.errors import ArtifactError
from tasks.registry.records import Signed, stored
from tasks.registry.registry import Registry


class VersionVerdict(BaseModel):
    """What is kept of a verdict by whoever comes to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Of the registry."""
    version: int = Field(ge=1)
    against: int | None = None
    """The champion that it was held against; None: there was none."""
    verdict: Literal["PROMOTE", "HOLD", "REJECT"]
    gates: tuple[dict[str, Any], ...] = ()
    """An entry for each gate, with at least its ``metric`` and its ``outcome``: win, tie or loss."""


class StoredVerdict(Signed):
    """A verdict as it is stored."""

    name: str
    version: int = Field(ge=1)
    against: int | None = None
    verdict: Literal["PROMOTE", "HOLD", "REJECT"]
    gates: tuple[dict[str, Any], ...] = ()
    key: str
    """Hash of the verdict itself, without who came to it when."""


def store_verdict(storage: str, verdict: VersionVerdict, signed: Signed) -> StoredVerdict:
    """Store a verdict beside its version; the same verdict stored again is the one that is there.

    Args:
        storage: root of all results.
        verdict: what was found.
        signed: who found it, and when.

    Raises:
        InputError: there is no such version.
        ArtifactError: what is stored there is damaged.
    """
    registry = Registry.at(storage, verdict.name)
    registry.version(verdict.version)
    content = json.dumps(verdict.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    key = hashlib.sha256(content.encode()).hexdigest()[:12]
    made = StoredVerdict(key=key, by=signed.by, when=signed.when, **verdict.model_dump())
    registry.store.put_if_absent(_key(key), made.to_bytes())
    found = stored(StoredVerdict, registry.store, _key(key))
    if found is None:
        raise ArtifactError(f"{registry.store.uri}/{_key(key)} went away as it was written. Give the command again.")
    return found


def verdict_of(storage: str, name: str, version: int, against: int | None = None) -> StoredVerdict | None:
    """The newest verdict on a version, of those against one version if there are any of these; None: there is no verdict.

    Raises:
        ArtifactError: a verdict is damaged.
    """
    there = [verdict for verdict in _verdicts(Registry.at(storage, name)) if verdict.version == version]
    fitting = [verdict for verdict in there if verdict.against == against] or there
    return max(fitting, key=lambda verdict: (verdict.when, verdict.key), default=None)


def _verdicts(registry: Registry) -> Iterator[StoredVerdict]:
    for info in registry.store.list("verdicts/"):
        found = stored(StoredVerdict, registry.store, info.key)
        if found is not None:
            yield found


def _key(key: str) -> str:
    return f"verdicts/{key}.json"
