"""What a storage backend is: the few verbs that every stage uses, and what follows from them.

Keys are relative to the store's root and use '/'; the empty key is the root itself, where that is an object. Objects are
whole or absent: a put never shows half of its bytes.
"""

import glob
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tasks.storage.patterns import Found, fits, sifted, split_pattern

if TYPE_CHECKING:
    import pyarrow as pa

_HASH_BLOCK = 8 * 2**20


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A stored object's key, size and age."""

    key: str
    size: int
    """Bytes."""
    modified: float = field(default=math.inf, compare=False)
    """When it was last written, in seconds since the epoch; infinite where nobody knows, so that it never counts as old."""


@dataclass(frozen=True)
class ObjectStore(ABC):
    """Objects below a root; picklable, so that it can be sent to actors.

    A backend has to have the six abstract verbs. The other methods follow from these, and are there to be overridden where a
    backend has a better way.
    """

    uri: str
    """Where the store is rooted: an absolute path, or a URI with the backend's scheme, without a slash at its end."""

    @abstractmethod
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object, or of the range [start, start + length) of it.

        Raises:
            FileNotFoundError: there is no such object.
        """

    @abstractmethod
    def put(self, key: str, data: bytes | memoryview) -> None:
        """Store an object whole, in place of any that is there."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store an object unless one is there. True if the object now holds ``data`` (so a retried put wins)."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``, by key."""

    @abstractmethod
    def head(self, key: str) -> ObjectInfo | None:
        """The object's size and age, or None where there is none."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""

    # What follows from the verbs.

    def exists(self) -> bool:
        """Whether there is anything at the root: a folder, or an object of that very name."""
        return next(iter(self.list()), None) is not None or self.head("") is not None

    def names(self) -> Iterable[str]:
        """What there is at the root's own level: objects, and folders that hold some."""
        return {info.key.partition("/")[0] for info in self.list()}

    def identity(self, key: str) -> str:
        """What changes when an object's content does, and what is equal for equal content at another place of the backend.

        Raises:
            FileNotFoundError: there is no such object.
        """
        digest, start = hashlib.sha256(), 0
        while block := self.get(key, start, _HASH_BLOCK):
            digest.update(block)
            start += len(block)
        return f"sha256-{digest.hexdigest()}"

    def open(self, key: str, size: int | None = None) -> "pa.NativeFile":
        """An object for random access, by byte ranges.

        Raises:
            FileNotFoundError: there is no such object, which is asked where its size is not given.
        """
        import pyarrow as pa

        from tasks.storage.ranges import RangeFile

        return pa.PythonFile(RangeFile(lambda start, length: self.get(key, start, length), self._size(key, size)), mode="r")

    def open_in_order(self, key: str) -> "pa.NativeFile":
        """An object for reading from its first byte to its last.

        Raises:
            FileNotFoundError: there is no such object.
        """
        from tasks.storage.ranges import RangeFile, in_order

        return in_order(RangeFile(lambda start, length: self.get(key, start, length), self._size(key)))

    def delete_folder(self, folder: str) -> None:
        """Remove all objects below a folder, by key, so that what a kill leaves of it are the last ones."""
        for key in sorted(info.key for info in self.list(f"{folder}/")):
            self.delete(key)

    def hasty(self) -> Self:
        """The same store, but one that tells within seconds that a server is away: for what is asked before a run begins."""
        return self

    @classmethod
    def files(cls, source: str, suffixes: Sequence[str]) -> Found:
        """The files that the URI of a folder, a file or a pattern stands for; of a folder, those with one of the suffixes.

        Raises:
            InputError: it cannot be listed.
        """
        if glob.has_magic(source):
            fixed, pattern = split_pattern(source)
            cls.require_possible(fixed)
            store = cls(fixed).hasty()
            return sifted(store.uri, store.matching(pattern), source)
        store = cls(source.rstrip("/")).hasty()
        there = [info.key for info in store.list()]
        if not there and store.head("") is not None:
            return Found([store.uri])
        return sifted(store.uri, (key for key in there if key.endswith(tuple(suffixes))), "")

    def matching(self, pattern: str) -> Iterable[str]:
        """The keys of all objects that match a pattern; '**' is any number of folders."""
        return (info.key for info in self.list() if fits(info.key, pattern))

    # What only some backends have.

    def path(self, key: str = "") -> Path | None:
        """Where an object, or the root, is a file of this machine; None where there are no files."""
        return None

    def free_bytes(self) -> int | None:
        """Bytes that may still be written; None where nobody knows."""
        return None

    def leftovers(self) -> Iterator[ObjectInfo]:
        """What killed processes had begun to write, which ``list`` does not show."""
        return iter(())

    def require_writable(self, given: str) -> None:  # noqa: B027
        """Refuse a root to which results cannot be written, or only at their peril.

        Args:
            given: the root, as the user gave it.

        Raises:
            InputError: nothing can be written there, or two runs could overwrite each other's results.
        """

    @classmethod  # noqa: B027
    def require_possible(cls, uri: str) -> None:
        """Refuse a URI that can be nobody's.

        Raises:
            InputError: it is one.
        """

    @classmethod  # noqa: B027
    def require_reachable(cls, uri: str, name: str) -> None:
        """Refuse a place, or what a pattern stands for, whose server does not answer.

        Args:
            uri: the place.
            name: of the setting that holds it.

        Raises:
            InputError: no server answers, or it knows no such place or not these credentials.
        """

    def _size(self, key: str, size: int | None = None) -> int:
        if size is not None:
            return size
        info = self.head(key)
        if info is None:
            raise FileNotFoundError(f"{self.uri}/{key}".rstrip("/"))
        return info.size
