"""Objects as files below a folder."""

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from tasks.errors import InputError
from tasks.storage.base import ObjectInfo, ObjectStore
from tasks.storage.content import sha256_of
from tasks.storage.local_files import files_on_disk
from tasks.storage.patterns import Found

if TYPE_CHECKING:
    import pyarrow as pa

# A full disk or quota, or a file larger than the shell's ulimit -f allows.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What is wrong with the path that was given, and stays so until another is.
_NO_PLACE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.EINVAL,
}
_ASIDE = ".tmp-"
_LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{32}")


@dataclass(frozen=True)
class LocalStore(ObjectStore):
    """Objects as files below a folder; writes go to a temporary name first and are then linked or renamed."""

    @override
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            with open(self.path(key), "rb") as file:
                file.seek(start)
                return file.read() if length is None else file.read(length)
        except (NotADirectoryError, IsADirectoryError):  # keys are of objects: a folder is none, nor is what is below a file
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path(key))) from None
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            raise InputError(f"{self.path(key)} cannot be read: {error.strerror}.") from None

    @override
    def put(self, key: str, data: bytes | memoryview) -> None:
        with self._written_aside(key, data) as aside:
            os.replace(aside, self.path(key))

    @override
    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._written_aside(key, data) as aside:
            try:
                os.link(aside, self.path(key))  # fails where the name exists, unlike rename
            except FileExistsError:
                return self.get(key) == data
            return True

    @override
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = self.path(prefix.rpartition("/")[0])
        for path in sorted(path for path in _files_in(folder) if not path.name.startswith(_ASIDE)):
            key = path.relative_to(self.uri).as_posix()
            if key.startswith(prefix) and (info := _file_info(key, path)) is not None:
                yield info

    @override
    def head(self, key: str) -> ObjectInfo | None:
        return _file_info(key, self.path(key))

    @override
    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)

    @override
    def exists(self) -> bool:
        return os.path.exists(self.uri)

    @override
    def names(self) -> Iterable[str]:
        try:
            return os.listdir(self.uri)
        except OSError:
            return []

    @override
    def identity(self, key: str) -> str:
        """SHA-256 of a file, read once per process as long as the file stays the same."""
        return f"sha256-{sha256_of(str(self.path(key)))}"

    @override
    def open(self, key: str, size: int | None = None) -> "pa.NativeFile":
        """The file, mapped into memory."""
        import pyarrow as pa

        return pa.memory_map(str(self.path(key)))

    @override
    def open_in_order(self, key: str) -> "pa.NativeFile":
        import pyarrow as pa

        return pa.OSFile(str(self.path(key)))

    @override
    def delete_folder(self, folder: str) -> None:
        """Remove a folder, and what a kill in mid-write has left behind there."""
        super().delete_folder(folder)
        shutil.rmtree(self.path(folder), ignore_errors=True)

    @classmethod
    @override
    def files(cls, source: str, suffixes: Sequence[str]) -> Found:
        return files_on_disk(source, suffixes)

    @override
    def path(self, key: str = "") -> Path:
        return Path(self.uri, key)

    @override
    def free_bytes(self) -> int | None:
        """Bytes that this user may still write on the disk."""
        return shutil.disk_usage(_existing(self.uri)).free

    @override
    def leftovers(self) -> Iterator[ObjectInfo]:
        for path in sorted(path for path in _files_in(Path(self.uri)) if path.name.startswith(_ASIDE)):
            key = path.relative_to(self.uri).as_posix()
            info = self.head(key) if _LEFTOVER.fullmatch(path.name) else None
            if info is not None:
                yield info

    @override
    def require_writable(self, given: str) -> None:
        """Refuse a folder, or the one in which it would be made, that is none or may not be written to."""
        folder = _existing(self.uri)
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            what = "is not writable" if folder.is_dir() else "is not a folder"
            raise InputError(f"storage is {given!r} but {folder} {what}. Choose another folder or an s3:// URI.")

    @contextlib.contextmanager
    def _written_aside(self, key: str, data: bytes | memoryview) -> Iterator[Path]:
        path = self.path(key)
        aside = path.parent / f"{_ASIDE}{uuid.uuid4().hex}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield aside
        except OSError as error:
            if error.errno in _NO_PLACE:
                raise InputError(f"{path} cannot be written: {error.strerror}. Name another place.") from error
            if error.errno not in _NO_ROOM:
                raise
            raise InputError(
                f"There is no room for {len(data):,} bytes at {path}: {error.strerror}. "
                "What is stored is kept: make room there and give the same command again."
            ) from error
        finally:
            with contextlib.suppress(OSError):  # of a folder that could not be made
                aside.unlink()


def _existing(path: str) -> Path:
    """The path, or the nearest folder above it that exists."""
    folder = Path(path)
    while not folder.exists():
        folder = folder.parent
    return folder


def _files_in(folder: Path) -> Iterator[Path]:
    """All below it. Not by ``Path.rglob``, which fails where a folder that it has come to is removed meanwhile."""
    for where, _, names in os.walk(folder, onerror=_pass_over):
        yield from (Path(where, name) for name in names)


def _pass_over(error: OSError) -> None:
    """Look no further into a folder that is gone or may not be read."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
        raise error


def _file_info(key: str, path: Path) -> ObjectInfo | None:
    """What there is at a path; None where that is no file, or no longer."""
    try:
        found = path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return ObjectInfo(key, found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None
