"""Damaged shards taken out of an activations directory, so that an ordinary harvest makes just those again.

Whenever this is killed, the directory is either finished, with its damage still to be found, or unfinished, with a
commit record for whole shards only: the same command goes on, and a harvest that comes first does no harm.
"""

from dataclasses import dataclass, replace

from tasks.harvest.named import COMMITS, commit_key, is_data_key
from tasks.harvest.verify import Verified, verify
from tasks.progress import Listener
from tasks.storage.artifacts import MANIFEST
from tasks.storage.objects import open_store

# The manifest as it was, until the new one has been held against it; a kill in between must not lose it.
BEFORE = "manifest.before-repair.json"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did."""

    verified: Verified
    """What was wrong."""
    redone: list[str]
    """Commit records of the shards that were harvested again."""
    identical: bool | None
    """Whether the manifest is byte for byte what it was; None where there was no usable one, or nothing to repair."""


def take_out(uri: str, listener: Listener, shards: str | None = None) -> tuple[Verified, list[str]]:
    """Verify a directory, and take out the shards that are damaged; what was wrong, and their commit records.

    Rows that nothing names are left to ``gc``. Of a pool, other directories miss these shards until they are harvested
    again, with the same content.

    Raises:
        InputError: ``uri`` is no activations directory.
    """
    verified = verify(uri, listener, shards)
    findings = [f for f in verified.findings if f.kind != "surplus" or f.key.startswith(COMMITS)]
    verified = replace(verified, findings=findings)
    if not findings:
        return verified, []
    home, store, manifest = verified.lake.home, verified.lake.shards, verified.lake.manifest
    if manifest is not None and all(finding.key != MANIFEST for finding in findings):
        home.put_if_absent(BEFORE, manifest)  # that of an earlier repair, killed on the way, stays
    redone = sorted({_record(finding.key) for finding in findings if finding.key != MANIFEST})
    # In this order. Records before objects: no record may outlive what it names, since a harvest trusts records. The
    # manifest last: while it is there nothing is harvested, and verify still finds whatever was not taken out.
    for key in redone:
        store.delete(key)
    for finding in findings:
        if is_data_key(finding.key):
            store.delete(finding.key)
    home.delete(MANIFEST)
    return verified, redone


def settle(uri: str) -> bool | None:
    """Whether the new manifest equals the one before the repair, which is then forgotten; None where none was kept."""
    store = open_store(uri)
    if store.head(BEFORE) is None:
        return None
    identical = store.get(BEFORE) == store.get(MANIFEST)
    store.delete(BEFORE)
    return identical


def _record(key: str) -> str:
    return key if key.startswith(COMMITS) else commit_key(key)
