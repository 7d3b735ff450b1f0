"""An object's bytes as a file, read by ranges."""

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from typing_extensions import override

_BLOCK_BYTES = 8 * 2**20


class RangeFile(io.RawIOBase):
    """A read-only file over an object's byte ranges; Parquet asks for whole column chunks, so nothing is cached."""

    def __init__(self, get: Callable[[int, int], bytes], size: int) -> None:
        """Args: what gives ``length`` bytes from ``start`` on, and how many there are."""
        self._get, self._size, self._at = get, size, 0

    @override
    def seekable(self) -> bool:
        """Always."""
        return True

    @override
    def readable(self) -> bool:
        """Always."""
        return True

    @override
    def tell(self) -> int:
        """The place from which is read next."""
        return self._at

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    @override
    def read(self, size: int = -1) -> bytes:
        """Bytes from the present place on, by one request."""
        left = max(0, self._size - self._at)
        wanted = left if size < 0 else min(size, left)
        data = self._get(self._at, wanted) if wanted else b""
        self._at += len(data)
        return data

    @override
    def readinto(self, buffer: Any) -> int:
        """The same into memory of the caller's."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def in_order(file: RangeFile) -> pa.NativeFile:
    """The same file for reading from first to last: some MiB are asked for at a time, however few are read."""
    return pa.PythonFile(io.BufferedReader(file, _BLOCK_BYTES), mode="r")
