"""Objects in the memory of this process, for tests and notebooks: ``memory://name/prefix``."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from tasks.errors import InputError
from tasks.storage.base import ObjectInfo, ObjectStore
from tasks.storage.paths import shown

_SCHEME = "memory://"
# By name and key; with each object's bytes the time at which they were put.
_objects: dict[str, tuple[bytes, float]] = {}


@dataclass(frozen=True)
class MemoryStore(ObjectStore):
    """Objects that go with the process, and that no other process sees."""

    @override
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        found = _objects.get(self._name(key))
        if found is None:
            raise FileNotFoundError(f"{_SCHEME}{self._name(key)}")
        return found[0][start : None if length is None else start + length]

    @override
    def put(self, key: str, data: bytes | memoryview) -> None:
        _objects[self._name(key)] = bytes(data), time.time()

    @override
    def put_if_absent(self, key: str, data: bytes) -> bool:
        held, _ = _objects.setdefault(self._name(key), (bytes(data), time.time()))  # one step, whatever other threads do
        return held == data

    @override
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        root = f"{self._name('')}/"
        there = sorted((name, *held) for name, held in list(_objects.items()) if name.startswith(root + prefix))
        for name, data, modified in there:
            yield ObjectInfo(name.removeprefix(root), len(data), modified)

    @override
    def head(self, key: str) -> ObjectInfo | None:
        found = _objects.get(self._name(key))
        return None if found is None else ObjectInfo(key, len(found[0]), found[1])

    @override
    def delete(self, key: str) -> None:
        _objects.pop(self._name(key), None)

    @override
    def require_writable(self, given: str) -> None:
        """Refuse it for runs, whose workers are other processes."""
        raise InputError(
            f"storage is {given!r}, which lies in the memory of one process, where a run's workers do not find it. Choose a "
            "folder or an s3:// URI."
        )

    @classmethod
    @override
    def require_possible(cls, uri: str) -> None:
        if not uri.partition("://")[2].partition("/")[0]:
            raise InputError(f"{shown(uri)} has no name; expected was {_SCHEME}name/prefix.")

    def _name(self, key: str) -> str:
        return f"{self.uri.removeprefix(_SCHEME)}/{key}".rstrip("/")
