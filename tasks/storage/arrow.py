"""A store as one of Arrow's file systems, for libraries that ask for one: its requests are tried again as all others are."""

import io
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileSystemHandler, FileType, PyFileSystem
from typing_extensions import override

from tasks.storage.base import ObjectInfo, ObjectStore


def arrow_filesystem(store: ObjectStore) -> tuple[str, FileSystem | None]:
    """The path of a store's root, and the file system in which it is one; None: this machine's own."""
    path = store.path()
    if path is not None:
        return str(path), None
    root = store.uri.partition("://")[2].strip("/")  # of Arrow's paths, no slash at either end counts
    return root, PyFileSystem(StoreFiles(store, root))


class StoreFiles(FileSystemHandler):  # type: ignore[misc]  # pyarrow is not typed
    """Objects as files. Folders are what keys say of them, so that none is made, and an empty one is not there."""

    def __init__(self, store: ObjectStore, root: str) -> None:
        """Args: what holds the objects, and the path that its root has here."""
        self._store, self._root = store, root

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreFiles) and (self._store, self._root) == (other._store, other._root)

    @override
    def __hash__(self) -> int:
        return hash((self._store, self._root))

    @override
    def get_type_name(self) -> str:
        return f"saemill+{type(self._store).__name__}"

    @override
    def normalize_path(self, path: str) -> str:
        return path

    @override
    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    @override
    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        there = [*self._below(selector.base_dir)]
        if not there and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        base = selector.base_dir.rstrip("/")
        found: dict[str, FileInfo] = {}
        for info in there:
            parts = self._path(info.key).removeprefix(f"{base}/").split("/")
            depth = len(parts) if selector.recursive else 1
            for end in range(1, min(depth, len(parts) - 1) + 1):
                folder = "/".join((base, *parts[:end]))
                found[folder] = FileInfo(folder, FileType.Directory)
            if depth == len(parts):
                found[self._path(info.key)] = self._file(self._path(info.key), info)
        return [*found.values()]

    @override
    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing: folders come with their first object."""

    @override
    def delete_dir(self, path: str) -> None:
        self._store.delete_folder(self._key(path))

    @override
    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._store.delete_folder(self._key(path))

    @override
    def delete_root_dir_contents(self) -> None:
        """Refused: nobody has a reason to."""
        raise OSError(f"All of {self._store.uri} was about to be removed.")

    @override
    def delete_file(self, path: str) -> None:
        self._store.delete(self._key(path))

    @override
    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    @override
    def copy_file(self, src: str, dest: str) -> None:
        self._store.put(self._key(dest), self._store.get(self._key(src)))

    @override
    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self._store.open_in_order(self._key(path))

    @override
    def open_input_file(self, path: str) -> pa.NativeFile:
        return self._store.open(self._key(path))

    @override
    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """A file that is stored, whole, when it is closed."""
        return pa.PythonFile(_Upload(self._store, self._key(path)), mode="w")

    @override
    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """Refused: objects are written whole."""
        raise OSError(f"{path} cannot be appended to.")

    def _info(self, path: str) -> FileInfo:
        info = self._store.head(self._key(path))
        if info is not None:
            return self._file(path, info)
        is_folder = next(self._below(path), None) is not None
        return FileInfo(path, FileType.Directory if is_folder else FileType.NotFound)

    def _below(self, path: str) -> Iterator[ObjectInfo]:
        key = self._key(path)
        return iter(self._store.list(f"{key}/" if key else ""))

    def _file(self, path: str, info: ObjectInfo) -> FileInfo:
        return FileInfo(path, FileType.File, size=info.size, mtime=None if math.isinf(info.modified) else info.modified)

    def _key(self, path: str) -> str:
        inside = path.strip("/")
        if inside != self._root and not inside.startswith(f"{self._root}/"):
            raise FileNotFoundError(f"{path} does not lie in {self._store.uri}.")
        return inside.removeprefix(self._root).strip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


class _Upload(io.BytesIO):
    def __init__(self, store: ObjectStore, key: str) -> None:
        super().__init__()
        self._store, self._key = store, key

    @override
    def close(self) -> None:
        if not self.closed:
            self._store.put(self._key, self.getvalue())
        super().close()
