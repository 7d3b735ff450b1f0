"""Whether a bucket answers, and keeps the promise on which commits rest: that a create-only PUT never replaces an object."""

import functools
import glob
import itertools
import uuid
from collections.abc import Callable

from tasks.errors import InputError
from tasks.storage.base import ObjectStore
from tasks.storage.s3_client import hasty_client


@functools.cache
def require_bucket(uri: str, name: str) -> None:
    """Refuse an s3:// URI that cannot be listed. One key of its own place is asked for: credentials may be for that alone.

    Args:
        uri: a bucket, or a place in one; a pattern counts up to where it begins.
        name: of the setting that holds it.

    Raises:
        InputError: no server answers, there is no such bucket, or the credentials are wrong or lacking.
    """
    from botocore.exceptions import BotoCoreError

    bucket = uri.removeprefix("s3://").partition("/")[0]
    try:
        hasty_client().call_s3("list_objects_v2", Bucket=bucket, Prefix=_prefix(uri, name), MaxKeys=1)
    except (OSError, ValueError, BotoCoreError) as error:  # ValueError: no bucket's name, or no endpoint's URL
        raise InputError(
            f"{name} is {uri!r} but bucket {bucket!r} cannot be reached: {_line(error)}. Make the bucket, and check "
            "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from None


@functools.cache  # once per process and root: it costs three requests
def require_create_only(store: ObjectStore, server: Callable[[], str]) -> None:
    """Refuse a root whose server ignores ``If-None-Match: *``.

    A server that ignores it lets the later of two racing harvests replace a commit record that readers trust already.

    Args:
        store: rooted where results will be written.
        server: gives the server's address, for the message.

    Raises:
        InputError: the server replaced an object it was told not to, does not know the header, or may not be written to.
    """
    key = f".probe-{uuid.uuid4().hex}"
    try:
        store.put_if_absent(key, b"first")
        replaced = store.put_if_absent(key, b"second")
        store.delete(key)
    except OSError as error:
        raise InputError(
            f"storage is {store.uri!r} but a create-only PUT to {server()} failed: {error}. Allow writing and deleting "
            "there, on a server that honours If-None-Match: * on PUT."
        ) from None
    if replaced:
        raise InputError(
            f"storage is {store.uri!r} but its server, {server()}, ignores If-None-Match: * on PUT, so two runs could "
            "overwrite each other's results. Use S3 itself or a server that honours it, such as SeaweedFS."
        )


def _prefix(uri: str, name: str) -> str:
    """What the keys of a place begin with: a folder's name with the slash behind it, as a policy spells it."""
    parts = uri.removeprefix("s3://").split("/")[1:]
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts)) if name != "storage" else parts
    path = "/".join(part for part in fixed if part)
    is_file = name != "storage" and len(fixed) == len(parts) and "." in path.rpartition("/")[2]
    return path if is_file or not path else f"{path}/"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
