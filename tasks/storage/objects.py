"""Storage by URI: a folder, s3://bucket/prefix, or another backend's scheme."""

import os

from tasks.errors import ArtifactError, InputError
from tasks.secret import holds_secret, masked
from tasks.storage.base import ObjectStore
from tasks.storage.local import LocalStore
from tasks.storage.memory import MemoryStore
from tasks.storage.paths import local_path, require_text, shown
from tasks.storage.s3 import S3Store

BACKENDS: dict[str, type[ObjectStore]] = {
    "s3": S3Store,
    "memory": MemoryStore,
}
"""By the scheme of their URIs; what has no scheme is a folder of this machine."""


def open_store(uri: str) -> ObjectStore:
    """The store rooted at a folder or a URI; nothing is created before the first put.

    A file or an object may be the root itself: its key is then empty.

    Raises:
        InputError: the URI's scheme is not known, or no file system has such a path.
    """
    checked = checked_path(uri)
    if holds_secret(checked):
        raise InputError(
            f"{masked(checked)} holds a secret where *** stands. Leave it out; S3 takes it from AWS_* variables."
        )
    backend = backend_of(checked)
    if backend is not LocalStore:
        return backend(checked.rstrip("/"))
    if "://" in checked:
        raise InputError(f"storage {shown(uri)} has an unknown scheme; use a folder or an s3:// URI.")
    return LocalStore(os.path.abspath(checked))


def object_at(uri: str) -> ObjectStore:
    """The store whose root is a file or an object that somebody else wrote; the object's key is empty.

    Raises:
        InputError: no file system, or no backend, can have such a path.
    """
    checked, backend = checked_path(uri), backend_of(uri)
    return backend(checked if backend is LocalStore else checked.rstrip("/"))


def backend_of(uri: str) -> type[ObjectStore]:
    """The backend whose scheme a URI has; the local one where nobody knows the scheme, or there is none."""
    scheme, mark, _ = uri.partition("://")
    return BACKENDS.get(scheme, LocalStore) if mark else LocalStore


def is_local(uri: str) -> bool:
    """Whether a path or URI means this machine's disk."""
    return backend_of(uri) is LocalStore


def checked_path(uri: str) -> str:
    """A local path without its scheme and with the home folder in place of '~', or another backend's URI as it is.

    Raises:
        InputError: no file system, or no backend, can have such a path.
    """
    if is_local(uri):
        return local_path(uri)
    require_text(uri)
    backend_of(uri).require_possible(uri)
    return uri


def require(store: ObjectStore, key: str) -> bytes:
    """The object's bytes.

    Raises:
        ArtifactError: there is no such object.
    """
    try:
        return store.get(key)
    except FileNotFoundError:
        raise ArtifactError(f"{store.uri}/{key} is missing. Give the command again that writes {store.uri}.") from None
