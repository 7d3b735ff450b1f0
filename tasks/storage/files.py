"""Stored objects as files that Arrow can read."""

import io

import pyarrow as pa

from tasks.storage.objects import LocalStore, ObjectStore


def open_file(store: ObjectStore, key: str, size: int | None = None) -> pa.NativeFile:
    """A stored object for random access: memory-mapped on local disk, by byte ranges elsewhere.

    Raises:
        FileNotFoundError: there is no such object.
    """
    if isinstance(store, LocalStore):
        return pa.memory_map(f"{store.uri}/{key}")
    if size is None:
        info = store.head(key)
        if info is None:
            raise FileNotFoundError(f"{store.uri}/{key}")
        size = info.size
    return pa.PythonFile(_RangeFile(store, key, size), mode="r")


class _RangeFile(io.RawIOBase):
    """A read-only file over an object's byte ranges; Parquet asks for whole column chunks, so nothing is cached."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size < 0 else min(size, left)
        data = self._store.get(self._key, self._at, wanted) if wanted else b""
        self._at += len(data)
        return data
