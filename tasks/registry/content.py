"""What the files of an SAE are, wherever they lie."""

import hashlib
from collections.abc import Mapping

from tasks.errors import InputError
from tasks.registry.names import REMOVED
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tasks.storage.paths import shown

WEIGHTS, CONFIG = "sae.safetensors", "config.json"
_BLOCK = 8 * 2**20


def file_hashes(store: ObjectStore) -> dict[str, str]:
    """SHA-256 of each of an SAE's files, which are read block by block.

    Raises:
        InputError: one is not there.
    """
    return {key: _sha256(store, key) for key in (WEIGHTS, CONFIG)}


def content_hash(hashes: Mapping[str, str]) -> str:
    """What an SAE is, from the hashes of its files."""
    return f"sha256:{hashlib.sha256((hashes[WEIGHTS] + hashes[CONFIG]).encode()).hexdigest()}"


def require_files(sae: str, called: str) -> None:
    """Refuse a version whose SAE is no longer there, or is about to go.

    Raises:
        InputError: a file of it is missing, or a removal of it has begun.
    """
    store = open_store(sae)
    if store.head(REMOVED) is not None:
        raise InputError(
            f"The SAE of {called} is being removed, as {store.uri}/{REMOVED} says. Choose another version, or give saemill "
            "gc --registry again first: it drops that mark of what is to stay."
        )
    for key in (WEIGHTS, CONFIG):
        if store.head(key) is None:
            raise InputError(
                f"The SAE of {called} is gone: {store.uri} has no {key}. Choose another version, of those that saemill "
                "registry list shows."
            )


def has_files(sae: str) -> bool:
    """Whether an SAE is there, as far as its weights are."""
    return open_store(sae).head(WEIGHTS) is not None


def _sha256(store: ObjectStore, key: str) -> str:
    info, digest = store.head(key), hashlib.sha256()
    if info is None:
        raise InputError(
            f"There is no SAE at {shown(store.uri)}: it lacks {key}. A directory was expected, as saemill train or saemill "
            "import prints it."
        )
    for start in range(0, info.size, _BLOCK):  # never from the end on: S3 refuses such a range
        digest.update(store.get(key, start, min(_BLOCK, info.size - start)))
    return digest.hexdigest()
