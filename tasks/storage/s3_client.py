"""The client for S3: s3fs, without retries of its own, and its complaints in sentences.

Credentials, region and endpoint come from the usual AWS_* variables. s3fs keeps one instance per process and settings.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from tasks.errors import InputError

# Two tries of seconds: a person waits. With s3fs's own it took 77 s to tell that no server is there, 29 s of no credentials.
_HASTE = {"retries": {"total_max_attempts": 2}, "connect_timeout": 3, "read_timeout": 5}


def client() -> Any:
    """s3fs without retries of its own, whose length depends on the kind of error: from 0 s to five minutes.

    Listing caches are off: another process may have written since.
    """
    return _s3fs({"retries": {"total_max_attempts": 1}})


def hasty_client() -> Any:
    """s3fs that gives up in seconds."""
    return _s3fs(_HASTE)


def endpoint() -> str:
    """The URL of the server that s3:// stands for."""
    fs = client()
    fs.connect()
    return str(fs.s3.meta.endpoint_url)


@contextlib.contextmanager
def sentences(what: str) -> Iterator[None]:
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


def _s3fs(config: dict[str, Any]) -> Any:
    import s3fs

    fs = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=config)
    fs.retries = 1
    return fs
