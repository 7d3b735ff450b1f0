"""Whether a store keeps the promise on which commits rest: that a create-only PUT never replaces an object."""

import functools
import uuid

from tasks.errors import InputError
from tasks.store.objects import open_store, s3_endpoint


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
