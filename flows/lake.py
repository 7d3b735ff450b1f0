"""What the command line does to activations directories as they lie: verify them."""

from rich.console import Console

from flows.console import listening
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
