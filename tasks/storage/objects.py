"""One object-store interface over local disk and s3://, with the few verbs that every stage uses.

Keys are relative to the store's root and use '/'. Objects are whole or absent: a put never shows half of its bytes.
"""

import contextlib
import errno
import math
import mimetypes
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from tasks.errors import ArtifactError, InputError
from tasks.secret import holds_secret, masked
from tasks.storage.retry import Patience, retried

T = TypeVar("T")

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


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A stored object's key, size and age."""

    key: str
    size: int
    """Bytes."""
    modified: float = field(default=math.inf, compare=False)
    """When it was last written, in seconds since the epoch; infinite where nobody knows, so that it never counts as old."""


@runtime_checkable  # tests execute annotations
class ObjectStore(Protocol):
    """What a stage may do with storage; picklable, so that it can be sent to actors."""

    @property
    def uri(self) -> str:
        """Where the store is rooted: an absolute path or an s3:// URI."""
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object, or of the range [start, start + length) of it.

        Raises:
            FileNotFoundError: there is no such object.
        """
        ...

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Store an object whole, in place of any that is there."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store an object unless one is there. True if the object now holds ``data`` (so a retried put wins)."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``, by key."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """The object's size and age, or None where there is none."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...


def open_store(uri: str) -> ObjectStore:
    """The store rooted at a folder or an s3:// URI; nothing is created before the first put.

    Raises:
        InputError: the URI's scheme is not known, or no file system has such a path.
    """
    checked = checked_path(uri)
    if holds_secret(checked):
        raise InputError(
            f"{masked(checked)} holds a secret where *** stands. Leave it out; S3 takes it from AWS_* variables."
        )
    if checked.startswith("s3://"):
        return S3Store(checked.rstrip("/"))
    if "://" in checked:
        raise InputError(f"storage {shown(uri)} has an unknown scheme; use a folder or an s3:// URI.")
    return LocalStore(os.path.abspath(checked))


def checked_path(uri: str) -> str:
    """A local path without its scheme and with the home folder in place of '~', or an s3:// URI as it is.

    Raises:
        InputError: no file system, or no bucket, can have such a path.
    """
    if uri.startswith("s3://"):
        return _possible(uri)
    path = os.path.expanduser(_possible(uri.removeprefix("file://")))
    if path.startswith("~") and not os.path.lexists(path):
        raise InputError(f"{uri!r} begins with '~', but there is no user {path[1:].partition('/')[0]!r} with a home folder.")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputError(f"{shown(uri)} cannot be the path of a file: {error.strerror}.") from None
    return path


def shown(text: str) -> str:
    """Text of the user's in quotes, cut where it is too long for a sentence."""
    text = masked(text)  # before it is cut: a secret's end is what tells it
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text):,} characters)"


_SHOWN = 200
_MAX_KEY = 1024
"""Bytes of an S3 key: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""


def _possible(uri: str) -> str:
    if "\0" in uri:
        raise InputError(f"{shown(uri)} holds a NUL character, which no path has.")
    try:
        size = len(uri.encode())
    except UnicodeEncodeError:
        raise InputError(f"{shown(uri)} holds half of a surrogate pair, which no path has.") from None
    if uri.startswith("s3://") and (size > _MAX_KEY or not uri.removeprefix("s3://").partition("/")[0]):
        what = "names no bucket" if size <= _MAX_KEY else f"is longer than the {_MAX_KEY:,} bytes that S3 allows"
        raise InputError(f"{shown(uri)} {what}; expected was s3://bucket/prefix.")
    return uri


@dataclass(frozen=True)
class LocalStore:
    """Objects as files below a folder; writes go to a temporary name first and are then linked or renamed."""

    uri: str

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:  # noqa: D102
        try:
            with open(self._path(key), "rb") as file:
                file.seek(start)
                return file.read() if length is None else file.read(length)
        except (NotADirectoryError, IsADirectoryError):  # keys are of objects: a folder is none, nor is what is below a file
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path(key))) from None
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            raise InputError(f"{self._path(key)} cannot be read: {error.strerror}.") from None

    def put(self, key: str, data: bytes | memoryview) -> None:  # noqa: D102
        with self._written_aside(key, data) as aside:
            os.replace(aside, self._path(key))

    def put_if_absent(self, key: str, data: bytes) -> bool:  # noqa: D102
        with self._written_aside(key, data) as aside:
            try:
                os.link(aside, self._path(key))  # fails where the name exists, unlike rename
            except FileExistsError:
                return self.get(key) == data
            return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:  # noqa: D102
        folder = self._path(prefix.rpartition("/")[0])
        found = [path for path in folder.rglob("*") if not path.name.startswith(".tmp-") and path.is_file()]
        for path in sorted(found):
            key = path.relative_to(self.uri).as_posix()
            if key.startswith(prefix):
                yield _file_info(key, path)

    def head(self, key: str) -> ObjectInfo | None:  # noqa: D102
        path = self._path(key)
        return _file_info(key, path) if path.is_file() else None

    def delete(self, key: str) -> None:  # noqa: D102
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return Path(self.uri, key)

    @contextlib.contextmanager
    def _written_aside(self, key: str, data: bytes | memoryview) -> Iterator[Path]:
        path = self._path(key)
        aside = path.parent / f".tmp-{uuid.uuid4().hex}"
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


@dataclass(frozen=True)
class S3Store:
    """Objects in a bucket, through s3fs; credentials, region and endpoint come from the usual AWS_* variables.

    Every verb outlasts a server that is away for a minute; after that it raises SaemillError.
    """

    uri: str
    patience: Patience = field(default=Patience(), compare=False, repr=False)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:  # noqa: D102
        # Without a limit of one stream, s3fs asks for the size first, which would double the requests for small objects.
        end = None if length is None else start + length
        limits: dict[str, Any] = {"max_concurrency": 1} if end is None and not start else {"start": start, "end": end}
        return self._retried("get", key, lambda fs, path: bytes(fs.cat_file(path, **limits)))

    def put(self, key: str, data: bytes | memoryview) -> None:  # noqa: D102
        # Without a content type, a browser downloads a bucket's pages instead of opening them.
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        whole = bytes(data)
        self._retried(
            "put", key, lambda fs, path: fs.pipe_file(path, whole, chunksize=_single_put(len(whole)), ContentType=kind)
        )

    def put_if_absent(self, key: str, data: bytes) -> bool:  # noqa: D102
        try:
            self._retried(
                "put", key, lambda fs, path: fs.pipe_file(path, data, mode="create", chunksize=_single_put(len(data)))
            )
        except OSError as error:
            if not _lost_create_race(error):
                raise
            return self.get(key) == data  # equal: an attempt before this one had reached the server after all
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:  # noqa: D102
        folder = prefix.rpartition("/")[0]
        root = self._path("").rstrip("/") + "/"
        found: dict[str, dict[str, Any]] = self._retried("list", folder, lambda fs, path: fs.find(path, detail=True))
        for name in sorted(found):
            key = name.removeprefix(root)
            # SeaweedFS keeps a folder whose last object is gone, and s3fs then gives the folder itself.
            if key.startswith(prefix) and found[name]["type"] == "file":
                yield _object_info(key, found[name])

    def head(self, key: str) -> ObjectInfo | None:  # noqa: D102
        try:
            found = self._retried("head", key, lambda fs, path: dict(fs.info(path)))
            return _object_info(key, found) if found["type"] == "file" else None
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:  # noqa: D102
        with contextlib.suppress(FileNotFoundError):
            self._retried("delete", key, lambda fs, path: fs.rm_file(path))

    def _path(self, key: str) -> str:
        return f"{self.uri.removeprefix('s3://')}/{key}"

    def _retried(self, verb: str, key: str, request: Callable[[Any, str], T]) -> T:
        fs = impatient_filesystem()
        path = self._path(key)
        what = f"{verb} of s3://{path}"
        with s3_sentences(what):
            return retried(lambda: request(fs, path), lambda: f"{what} at {s3_endpoint()}", self.patience)


@contextlib.contextmanager
def s3_sentences(what: str) -> Iterator[None]:
    """Tell in a sentence what the client refuses before it asks a server: credentials that lack, names that cannot be.

    Raises:
        InputError: it did.
    """
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except (BotoCoreError, PermissionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"The {what} was refused: {reason}. Check the bucket's name, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY."
        ) from error


def impatient_filesystem() -> Any:
    """s3fs without retries of its own, whose length depends on the kind of error: from 0 s to five minutes."""
    import s3fs

    fs = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs={"retries": {"total_max_attempts": 1}})
    fs.retries = 1
    return fs


def s3_endpoint() -> str:
    """The URL of the server that s3:// stands for."""
    fs = impatient_filesystem()
    fs.connect()
    return str(fs.s3.meta.endpoint_url)


def s3_filesystem() -> Any:
    """The process's s3fs filesystem; s3fs itself keeps one instance per process and settings.

    Listing caches are off: another process may have written since.
    """
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False, config_kwargs={"retries": {"mode": "adaptive", "max_attempts": 10}})


def _file_info(key: str, path: Path) -> ObjectInfo:
    found = path.stat()
    return ObjectInfo(key, found.st_size, found.st_mtime)


def _object_info(key: str, found: Mapping[str, Any]) -> ObjectInfo:
    return ObjectInfo(key, found["size"], found["LastModified"].timestamp())


def require(store: ObjectStore, key: str) -> bytes:
    """The object's bytes.

    Raises:
        ArtifactError: there is no such object.
    """
    try:
        return store.get(key)
    except FileNotFoundError:
        raise ArtifactError(f"{store.uri}/{key} is missing. Give the command again that writes {store.uri}.") from None


def _single_put(size: int) -> int:
    """An s3fs chunk size with which ``size`` bytes go up in one atomic PUT rather than in parts."""
    return max(64 * 2**20, size)


def _lost_create_race(error: OSError) -> bool:
    # s3fs 2026.9 reports SeaweedFS's 412 as OSError(22) with botocore's ClientError as its cause, not FileExistsError.
    if isinstance(error, FileExistsError):
        return True
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict")
