"""Objects in a bucket."""

import contextlib
import mimetypes
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

from typing_extensions import override

from tasks.errors import InputError
from tasks.storage.base import ObjectInfo, ObjectStore
from tasks.storage.paths import shown
from tasks.storage.probe import require_bucket, require_create_only
from tasks.storage.retry import Patience, retried
from tasks.storage.s3_client import client, endpoint, sentences

T = TypeVar("T")

_SCHEME = "s3://"
_MAX_KEY = 1024
"""Bytes of an S3 key: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""
# A run that has not begun is better told within seconds that the server is away.
_HASTE = Patience(seconds=10.0)


@dataclass(frozen=True)
class S3Store(ObjectStore):
    """Objects in a bucket, through s3fs; credentials, region and endpoint come from the usual AWS_* variables.

    Every verb outlasts a server that is away for a minute; after that it raises SaemillError.
    """

    patience: Patience = field(default=Patience(), compare=False, repr=False)

    @override
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        # Without a limit of one stream, s3fs asks for the size first, which would double the requests for small objects.
        end = None if length is None else start + length
        limits: dict[str, Any] = {"max_concurrency": 1} if end is None and not start else {"start": start, "end": end}
        return self._retried("get", key, lambda fs, path: bytes(fs.cat_file(path, **limits)))

    @override
    def put(self, key: str, data: bytes | memoryview) -> None:
        # Without a content type, a browser downloads a bucket's pages instead of opening them.
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        whole = bytes(data)
        self._retried(
            "put", key, lambda fs, path: fs.pipe_file(path, whole, chunksize=_single_put(len(whole)), ContentType=kind)
        )

    @override
    def put_if_absent(self, key: str, data: bytes) -> bool:
        try:
            self._retried(
                "put", key, lambda fs, path: fs.pipe_file(path, data, mode="create", chunksize=_single_put(len(data)))
            )
        except OSError as error:
            if not _lost_create_race(error):
                raise
            return self.get(key) == data  # equal: an attempt before this one had reached the server after all
        return True

    @override
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        root = f"{self._path('')}/"
        found: dict[str, dict[str, Any]] = self._retried("list", folder, lambda fs, path: fs.find(path, detail=True))
        for name in sorted(found):
            # Of a folder that is none, s3fs gives the object of that name.
            key = name.removeprefix(root) if name.startswith(root) else None
            # SeaweedFS keeps a folder whose last object is gone, and s3fs then gives the folder itself.
            if key is not None and key.startswith(prefix) and found[name]["type"] == "file":
                yield _object_info(key, found[name])

    @override
    def head(self, key: str) -> ObjectInfo | None:
        found = self._info(key)
        return None if found is None else _object_info(key, found)

    @override
    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._retried("delete", key, lambda fs, path: fs.rm_file(path))

    @override
    def exists(self) -> bool:
        return bool(self._retried("exists", "", lambda fs, path: fs.exists(path)))

    @override
    def identity(self, key: str) -> str:
        """Entity tag and size of an object, for which nothing of it is read."""
        found = self._info(key)
        if found is None:
            raise FileNotFoundError(self._path(key))
        return f"s3-etag-{found['ETag']}-{found['size']}".replace('"', "")

    @override
    def hasty(self) -> Self:
        return replace(self, patience=_HASTE)

    @override
    def matching(self, pattern: str) -> Iterable[str]:
        """The keys of all objects that match a pattern; folders are listed only as deep as it goes."""
        found: dict[str, dict[str, Any]] = self._retried("glob", pattern, lambda fs, path: fs.glob(path, detail=True))
        root = f"{self._path('')}/"
        # Folders match patterns too, as on disk, where they are no files either.
        return [name.removeprefix(root) for name, info in found.items() if info["type"] == "file" and not name.endswith("/")]

    @override
    def require_writable(self, given: str) -> None:
        """Refuse a bucket that cannot be written to, or whose server lets two runs overwrite each other's results."""
        require_create_only(self, endpoint)

    @classmethod
    @override
    def require_possible(cls, uri: str) -> None:
        too_long = len(uri.encode()) > _MAX_KEY
        if too_long or not uri.partition("://")[2].partition("/")[0]:
            what = f"is longer than the {_MAX_KEY:,} bytes that S3 allows" if too_long else "names no bucket"
            raise InputError(f"{shown(uri)} {what}; expected was s3://bucket/prefix.")

    @classmethod
    @override
    def require_reachable(cls, uri: str, name: str) -> None:
        require_bucket(uri, name)

    def _path(self, key: str) -> str:
        return f"{self.uri.removeprefix(_SCHEME)}/{key}".rstrip("/")

    def _info(self, key: str) -> dict[str, Any] | None:
        """What S3 says of an object: size, ETag and more; None where there is none."""
        try:
            found: dict[str, Any] = self._retried("head", key, lambda fs, path: dict(fs.info(path)))
        except FileNotFoundError:
            return None
        return found if found["type"] == "file" else None

    def _retried(self, verb: str, key: str, request: Callable[[Any, str], T]) -> T:
        fs = client()
        path = self._path(key)
        what = f"{verb} of {_SCHEME}{path}"
        with sentences(what):
            return retried(lambda: request(fs, path), lambda: f"{what} at {endpoint()}", self.patience)


def _object_info(key: str, found: Mapping[str, Any]) -> ObjectInfo:
    return ObjectInfo(key, found["size"], found["LastModified"].timestamp())


def _single_put(size: int) -> int:
    """An s3fs chunk size with which ``size`` bytes go up in one atomic PUT rather than in parts."""
    return max(64 * 2**20, size)


def _lost_create_race(error: OSError) -> bool:
    # s3fs 2026.9 reports SeaweedFS's 412 as OSError(22) with botocore's ClientError as its cause, not FileExistsError.
    if isinstance(error, FileExistsError):
        return True
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict")
