"""What a stored SAE is, wherever it lies, told without torch."""

import hashlib

from tasks.errors import InputError
from tasks.storage.artifacts import read_manifest
from tasks.storage.objects import open_store
from tasks.storage.paths import shown

FILES = ("sae.safetensors", "config.json")


def content_of(uri: str) -> str:
    """A hash of an SAE's weights and settings.

    What a manifest says of the two files is believed, as ``load`` compares it with them; of an SAE that has no manifest they
    are read.

    Raises:
        InputError: no SAE is there.
        ArtifactError: its manifest is damaged.
    """
    objects = (read_manifest(uri) or {}).get("objects")
    found = hashlib.sha256()
    for name in FILES:
        entry = objects.get(name) if isinstance(objects, dict) else None
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        found.update((digest if isinstance(digest, str) else _digest(uri, name)).encode())
    return f"sha256:{found.hexdigest()}"


def _digest(uri: str, name: str) -> str:
    try:
        return hashlib.sha256(open_store(uri).get(name)).hexdigest()
    except FileNotFoundError:
        raise InputError(
            f"There is no SAE at {shown(uri)}: a directory with {' and '.join(FILES)} was expected, as saemill train or "
            "saemill import prints it."
        ) from None
