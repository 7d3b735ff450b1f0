"""What the command line does to activations directories as they lie: verify, sweep, repair and export them."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console

from flows.addresses import addresses
from flows.config import PipelineConfig
from flows.console import listening
from tasks.harvest.export import Exported, SplitName, export_activations
from tasks.harvest.formats import FormatName
from tasks.harvest.gc import Collected
from tasks.harvest.repair import Repaired, settle, take_out
from tasks.harvest.verify import Verified, verify


def verified(uri: str) -> Verified:
    """Verify an activations directory, telling on stderr how far it is.

    Raises:
        InputError: ``uri`` is no activations directory.
    """
    with listening(Console(stderr=True)) as listener:
        return verify(uri, listener)


def verification_as_json(found: Verified) -> dict[str, Any]:
    """The same as one JSON object."""
    return {
        "uri": found.uri,
        "shards": found.lake.shards.uri,
        "objects": found.objects,
        "size": found.size,
        "findings": [asdict(finding) for finding in found.findings],
    }


def described_verification(found: Verified) -> str:
    """One line per finding, or one that says what was found whole."""
    if not found.findings:
        return f"{found.uri}: {found.objects:,} objects, {found.size:,} bytes, all as the manifest says"
    return "\n".join(_finding_lines(found))


def _finding_lines(found: Verified) -> list[str]:
    return [f"{finding.kind:<8} {found.lake.where(finding.key)}: {finding.reason}" for finding in found.findings]


def described_collection(found: Collected) -> str:
    """One line per object that was (or would be) removed, and a last one that counts them."""
    word = "would remove" if found.dry_run else "removed"
    lines = [f"{word} {found.uri}/{info.key} ({info.size:,} bytes)" for info in found.removed]
    return "\n".join([*lines, f"{word} {len(lines):,} objects, {found.size:,} bytes"])


def collection_as_json(found: Collected) -> dict[str, Any]:
    """The same as one JSON object."""
    removed = [{"key": info.key, "size": info.size} for info in found.removed]
    return {"uri": found.uri, "dry_run": found.dry_run, "removed": removed, "bytes": found.size}


def repaired(config: PipelineConfig, harvest: Callable[[], object]) -> Repaired:
    """Take damaged shards out of a configuration's activations, and let ``harvest`` make them again.

    Raises:
        InputError: the inputs are not there, or nothing has been harvested yet; nothing was removed.
    """
    at = addresses(config)
    with listening(Console(stderr=True)) as listener:
        verified, redone = take_out(at.activations, listener, at.shards)
    if verified.findings:
        harvest()
    return Repaired(verified, redone, settle(at.activations))


def repair_as_json(found: Repaired) -> dict[str, Any]:
    """The same as one JSON object."""
    return {**verification_as_json(found.verified), "redone": found.redone, "identical": found.identical}


def described_repair(found: Repaired) -> str:
    """What was wrong, a line each, and how it ended."""
    lines, uri = _finding_lines(found.verified), found.verified.uri
    done = f"{uri}: {len(found.redone):,} shards harvested again"
    if not lines:
        lines.append(f"{uri}: nothing to repair")
    elif found.identical is None:
        lines.append(f"{done}; there was no usable manifest to hold the new one against")
    if found.identical is not None:
        same = "identical to" if found.identical else "NOT identical to"
        more = "" if found.identical else "; other versions or another machine? What was trained on them saw other rows"
        lines.append(f"{done}; the manifest is {same} the one before{more}")
    return "\n".join(lines)


def exported(uri: str, out: str, name: FormatName, hook: str | None, split: SplitName, context: int) -> Exported:
    """Export activations, telling on stderr how far it is.

    Raises:
        InputError: as ``export_activations``.
    """
    with listening(Console(stderr=True)) as listener:
        return export_activations(uri, out, name, listener, hook=hook, split=split, context=context)


def described_export(found: Exported) -> str:
    """Where the files are and what they hold, in one line."""
    left_out = f"; {found.left_out:,} rows at the end filled no row of the dataset" if found.left_out else ""
    earlier = " (finished earlier)" if found.earlier else ""
    rows = f"{found.rows:,} {found.split} rows of {found.hook}"
    return f"{found.uri}: {rows} in {found.files:,} files, {found.size:,} bytes{left_out}{earlier}"
