"""What lies on a storage: results by their directories, with their bytes, their age and what they name."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tasks.registry.names import REMOVED
from tasks.storage.artifacts import MANIFEST, identity, read_manifest
from tasks.storage.base import ObjectInfo
from tasks.storage.objects import open_store

_STAGES = ("tokens", "activations", "saes", "scores", "reports")
_WINDOWS = re.compile(r"(.+)\.\d{6,}")
_READERS = 16


@dataclass(frozen=True, slots=True)
class StoredResult:
    """The directory of one result."""

    uri: str
    stage: str
    """The folder below the root that it lies in."""
    size: int
    """Bytes."""
    newest: float
    """When something of it was last written, in seconds since the epoch."""
    manifest: Mapping[str, Any] | None
    """None: it is not finished."""
    removal: bool
    """Whether somebody began to remove it."""

    @property
    def identity(self) -> str:
        """The hash in its address, by which other results name it."""
        return identity(self.uri)

    def named(self, stage: str) -> str | None:
        """Which result of a stage this one says it was made of, by its hash."""
        inputs = self.manifest or {}
        found = inputs.get("inputs") if isinstance(inputs.get("inputs"), dict) else inputs
        value = found.get(stage) if isinstance(found, dict) else None
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that lies on a storage."""

    root: str
    objects: Sequence[ObjectInfo]
    results: Sequence[StoredResult]
    lakes: Mapping[str, Sequence[StoredResult]]
    """Folders of rows that do not stay, and of windows, by the name of the SAE's that is trained on them."""

    def of(self, stage: str) -> Iterator[StoredResult]:
        """The results of one stage."""
        return (result for result in self.results if result.stage == stage)


def inventory(root: str) -> Inventory:
    """List a storage once, and read the manifest of every result.

    Raises:
        ArtifactError: a manifest is damaged, so that nobody knows what it names.
    """
    store = open_store(root)
    objects = list(store.list())
    folders: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in objects:
        stage, _, rest = info.key.partition("/")
        name, slash, _ = rest.partition("/")
        if slash:
            folders[f"{stage}/{name}"].append(info)
    lakes: dict[str, list[StoredResult]] = defaultdict(list)
    for folder in list(folders):
        stage, _, name = folder.partition("/")
        if stage not in _STAGES:
            found = folders.pop(folder)
            if (sae := _sae_of(stage, name)) is not None:
                lakes[sae].append(_folder(store.uri, folder, found, {}))
    with ThreadPoolExecutor(_READERS) as pool:
        results = list(pool.map(lambda item: _result(store.uri, *item), folders.items()))
    return Inventory(store.uri, objects, results, lakes)


def _sae_of(stage: str, name: str) -> str | None:
    """Whose lake or window a folder is; None where it is neither."""
    window = _WINDOWS.fullmatch(name) if stage == "windows" else None
    return window[1] if window is not None else name if stage == "lakes" else None


def _result(root: str, folder: str, objects: Sequence[ObjectInfo]) -> StoredResult:
    there = any(info.key == f"{folder}/{MANIFEST}" for info in objects)
    return _folder(root, folder, objects, read_manifest(f"{root}/{folder}") if there else None)


def _folder(root: str, folder: str, objects: Sequence[ObjectInfo], manifest: Mapping[str, Any] | None) -> StoredResult:
    return StoredResult(
        uri=f"{root}/{folder}",
        stage=folder.partition("/")[0],
        size=sum(info.size for info in objects),
        newest=max(info.modified for info in objects),
        manifest=manifest,
        removal=any(info.key == f"{folder}/{REMOVED}" for info in objects),
    )
