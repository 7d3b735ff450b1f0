"""What the command line does to activations directories as they lie: verify them, and remove what nothing names."""

from typing import Any

from rich.console import Console

from flows.console import listening
from tasks.harvest.gc import Collected
from tasks.harvest.verify import Verified, verify


def verified(uri: str) -> Verified:
    """Verify an activations directory, telling on stderr how far it is.

    Raises:
        InputError: ``uri`` is no activations directory.
    """
    with listening(Console(stderr=True)) as listener:
        return verify(uri, listener)


def described_verification(found: Verified) -> str:
    """One line per finding, or one that says what was found whole."""
    if not found.findings:
        return f"{found.uri}: {found.objects:,} objects, {found.size:,} bytes, all as the manifest says"
    return "\n".join(f"{finding.kind:<8} {found.uri}/{finding.key}: {finding.reason}" for finding in found.findings)


def described_collection(found: Collected) -> str:
    """One line per object that was (or would be) removed, and a last one that counts them."""
    word = "would remove" if found.dry_run else "removed"
    lines = [f"{word} {found.uri}/{info.key} ({info.size:,} bytes)" for info in found.removed]
    return "\n".join([*lines, f"{word} {len(lines):,} objects, {found.size:,} bytes"])


def collection_as_json(found: Collected) -> dict[str, Any]:
    """The same as one JSON object."""
    removed = [{"key": info.key, "size": info.size} for info in found.removed]
    return {"uri": found.uri, "dry_run": found.dry_run, "removed": removed, "bytes": found.size}
