"""References to versions, where an SAE's URI is taken: ``NAME@3``, ``NAME@champion``, ``NAME@champion~1``."""

import re
from dataclasses import dataclass

from tasks.errors import InputError
from tasks.registry.moving import back
from tasks.registry.registry import Registry, require_registry
from tasks.registry.versions import SAEVersion
from tasks.storage.paths import shown

_REFERENCE = re.compile(r"([^/@\s~]+)@([^/@\s~]+)(?:~([0-9]{1,6}))?")
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class VersionReference:
    """A version by its number, or by an alias and so many promotions before it."""

    name: str
    at: int | str
    steps: int = 0

    @classmethod
    def parsed(cls, text: str) -> "VersionReference | None":
        """What a text refers to; None where it is no reference, but a path or a URI.

        Raises:
            InputError: it counts promotions back from a number.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            return None
        name, at, steps = found.groups()
        if not _NUMBER.fullmatch(at):
            return cls(name, at, int(steps or 0))
        if steps is not None:
            raise InputError(
                f"{shown(text)} counts promotions back from a number; ~{steps} goes behind an alias, as in "
                f"{name}@champion~1."
            )
        return cls(name, int(at))


def resolve(reference: str, storage_uri: str) -> str:
    """The URI of the SAE that a reference stands for; what is no reference, such as a path, comes back as it is.

    ``NAME@3`` is a version, ``NAME@champion`` what the alias stands for now, and ``NAME@champion~1`` what it stood for one
    promotion ago, to which a rollback would go. A folder that is called like a reference is ``./NAME@3``.

    Args:
        reference: a reference, a path or a URI.
        storage_uri: root of all results, in which the registry is.

    Raises:
        InputError: there is no registry, version or alias of that name; the message says which there are.
        ArtifactError: a record of the registry is damaged.
    """
    named = VersionReference.parsed(reference)
    if named is None:
        return reference
    registry = Registry.at(storage_uri, named.name)
    return registry.uri_of(version_at(registry, named))


def referred(text: str, storage: str) -> tuple[Registry, SAEVersion]:
    """The registry and the version of a reference, where nothing else is taken.

    Raises:
        InputError: it is no reference, or there is no such version.
        ArtifactError: a record of the registry is damaged.
    """
    named = VersionReference.parsed(text)
    if named is None:
        raise InputError(f"{shown(text)} is no version; expected was NAME@3, NAME@champion or another alias.")
    registry = Registry.at(storage, named.name)
    return registry, version_at(registry, named)


def version_at(registry: Registry, named: VersionReference) -> SAEVersion:
    """The version that a reference stands for.

    Raises:
        InputError: there is no such version or alias.
        ArtifactError: a record of the registry is damaged.
    """
    if isinstance(named.at, int):
        return registry.version(named.at)
    require_registry(registry)
    return registry.version(back(registry, named.at, named.steps).version)
