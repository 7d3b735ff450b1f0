"""A registry: one name on one storage, with its versions, moves of aliases, tags and verdicts."""

import difflib
from dataclasses import dataclass

from tasks.errors import InputError
from tasks.registry.aliases import AliasMove
from tasks.registry.names import require_name
from tasks.registry.numbered_log import NumberedLog
from tasks.registry.tags import TagChange
from tasks.registry.versions import SAEVersion
from tasks.storage.artifacts import resolve as uri_below
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tasks.storage.paths import shown

FOLDER = "registry"


@dataclass(frozen=True, slots=True)
class Registry:
    """The versions under one name."""

    root: str
    """Of the storage, as an absolute URI."""
    name: str

    @classmethod
    def at(cls, storage: str, name: str) -> "Registry":
        """The registry of this name, which need not be there yet.

        Raises:
            InputError: nothing can have that name, or be the URI of a storage.
        """
        return cls(open_store(storage).uri, require_name(name, "The name of the registry"))

    @property
    def store(self) -> ObjectStore:
        """Where its records are."""
        return open_store(f"{self.root}/{FOLDER}/{self.name}")

    @property
    def versions(self) -> NumberedLog[SAEVersion]:
        """The versions, by their numbers."""
        return NumberedLog(SAEVersion, self.store, "versions")

    @property
    def tags(self) -> NumberedLog[TagChange]:
        """What was tagged, and what no longer is."""
        return NumberedLog(TagChange, self.store, "tags")

    def moves(self, alias: str) -> NumberedLog[AliasMove]:
        """The moves of one alias; the last one is its present value."""
        return NumberedLog(AliasMove, self.store, f"aliases/{alias}")

    def aliases(self) -> list[str]:
        """The aliases that were ever given."""
        return sorted({info.key.split("/")[1] for info in self.store.list("aliases/") if info.key.count("/") == 2})

    def version(self, number: int) -> SAEVersion:
        """A version.

        Raises:
            InputError: there is none of that number, or no registry of that name.
            ArtifactError: its record is damaged.
        """
        found = self.versions.get(number)
        if found is not None:
            return found
        there = self.versions.numbers()
        if not there:
            raise unknown_registry(self)
        span = f"{there[0]} to {there[-1]}" if len(there) > 1 else f"{there[0]} alone"
        raise InputError(f"{self.name} has no version {number} at {self.root}; there is {span}.")

    def uri_of(self, version: SAEVersion) -> str:
        """Where a version's SAE lies."""
        return uri_below(version.sae, self.root)


def registry_names(storage: str) -> list[str]:
    """The names that have versions on a storage."""
    keys = (info.key.split("/") for info in open_store(storage).list(f"{FOLDER}/"))
    return sorted({parts[1] for parts in keys if len(parts) == 4 and parts[2] == "versions"})


def require_registry(registry: Registry) -> Registry:
    """The same registry, which has at least one version.

    Raises:
        InputError: it has none.
    """
    if not registry.versions.numbers():
        raise unknown_registry(registry)
    return registry


def unknown_registry(registry: Registry) -> InputError:
    """What is said of a name that has no version."""
    there = registry_names(registry.root)
    if not there:
        return InputError(
            f"There is no registry {shown(registry.name)} at {registry.root}, nor any other. Name another storage with "
            "--storage or SAEMILL_STORAGE, or register an SAE with saemill registry add."
        )
    closest = difflib.get_close_matches(registry.name, there, 1)
    meant = f" Did you mean {closest[0]}?" if closest else ""
    return InputError(
        f"There is no registry {shown(registry.name)} at {registry.root}; there are {', '.join(there)}.{meant}"
    )
