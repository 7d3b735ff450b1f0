"""Whether a bucket answers, and keeps the promise on which commits rest: that a create-only PUT never replaces an object."""

import functools
import glob
import itertools
import uuid

from botocore.exceptions import BotoCoreError

from tasks.errors import InputError
from tasks.storage.objects import open_store, s3_endpoint

# Two tries of seconds: a person waits. With s3fs's own it took 77 s to tell that no server is there, 29 s of no credentials.
_HASTE = {"retries": {"total_max_attempts": 2}, "connect_timeout": 3, "read_timeout": 5}


@functools.cache
def require_reachable(uri: str, name: str) -> None:
    """Refuse an s3:// URI that cannot be listed. One key of its own place is asked for: credentials may be for that alone.

    Args:
        uri: a bucket, or a place in one; a pattern counts up to where it begins.
        name: of the setting that holds it.

    Raises:
        InputError: no server answers, there is no such bucket, or the credentials are wrong or lacking.
    """
    import s3fs

    bucket = uri.removeprefix("s3://").partition("/")[0]
    try:
        fs = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=_HASTE)
        fs.retries = 1
        fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=_prefix(uri, name), MaxKeys=1)
    except (OSError, ValueError, BotoCoreError) as error:  # ValueError: no bucket's name, or no endpoint's URL
        raise InputError(
            f"{name} is {uri!r} but bucket {bucket!r} cannot be reached: {_line(error)}. Make the bucket, and check "
            "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from None


@functools.cache  # once per process and root: it costs three requests
def require_create_only(root: str) -> None:
    """Refuse an s3:// root whose server ignores ``If-None-Match: *``.

    A server that ignores it lets the later of two racing harvests replace a commit record that readers trust already.

    Raises:
        InputError: the server replaced an object it was told not to, does not know the header, or may not be written to.
    """
    store = open_store(root)
    key = f".probe-{uuid.uuid4().hex}"
    try:
        store.put_if_absent(key, b"first")
        replaced = store.put_if_absent(key, b"second")
        store.delete(key)
    except OSError as error:
        raise InputError(
            f"storage is {root!r} but a create-only PUT to {s3_endpoint()} failed: {error}. Allow writing and deleting "
            "there, on a server that honours If-None-Match: * on PUT."
        ) from None
    if replaced:
        raise InputError(
            f"storage is {root!r} but its server, {s3_endpoint()}, ignores If-None-Match: * on PUT, so two runs could "
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
