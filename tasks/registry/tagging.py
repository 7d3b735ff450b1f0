"""Tagging versions, and telling which tags they have."""

import uuid
from collections import defaultdict

from tasks.registry.names import require_name
from tasks.registry.records import Signed
from tasks.registry.registry import Registry
from tasks.registry.tags import TagChange


def tags_of(registry: Registry) -> dict[int, frozenset[str]]:
    """The tags of each version that has one.

    Raises:
        ArtifactError: a record is damaged.
    """
    found: dict[int, set[str]] = defaultdict(set)
    for _, version in registry.versions.all():
        found[version.version] |= set(version.tags)
    for _, change in registry.tags.all():
        (found[change.version].add if change.present else found[change.version].discard)(change.tag)
    return {version: frozenset(tags) for version, tags in found.items() if tags}


def tag(registry: Registry, version: int, name: str, signed: Signed, *, present: bool = True) -> bool:
    """Give a version a tag, or take it away; whether anything changed.

    Raises:
        InputError: there is no such version, or nothing can have that name.
        ArtifactError: a record is damaged.
    """
    require_name(name, "The tag")
    registry.version(version)
    while True:
        last = registry.tags.last()
        if (name in tags_of(registry).get(version, ())) == present:
            return False
        change = TagChange(
            version=version, tag=name, present=present, change=uuid.uuid4().hex, by=signed.by, when=signed.when
        )
        if registry.tags.append(last + 1, change):
            return True
