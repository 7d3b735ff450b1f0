"""What stages have stored so far, in bytes."""

from flows.addresses import Addresses, Placed
from tasks.storage.objects import open_store


def stored_bytes(at: Addresses, stage: Placed) -> int:
    """Of a stage's result, and of the pool that it shares with harvests of other corpora."""
    uris = [stage.out, at.shards] if has_pool(at, stage) else [stage.out]
    return sum(map(bytes_at, uris))


def bytes_at(uri: str) -> int:
    """Of all that lies below a URI."""
    return sum(info.size for info in open_store(uri).list())


def has_pool(at: Addresses, stage: Placed) -> bool:
    """Whether a stage stores its rows in a pool."""
    return stage.name == "harvest" and at.shards != stage.out
