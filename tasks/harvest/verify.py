"""Whether an activations directory still holds what its manifest says, byte by byte."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.artifacts import MANIFEST
from tasks.harvest.named import COMMITS, NamedObject, named_by_commit, named_by_manifest, require_activations
from tasks.progress import Listener, Progress
from tasks.store.files import open_file
from tasks.store.objects import ObjectInfo, ObjectStore, open_store

_CHUNK_BYTES = 8 * 2**20
# Objects read at once: hashing leaves Python's lock, and on S3 most of the time is waiting.
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One object that is not as it should be."""

    kind: Literal["damaged", "missing", "surplus"]
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at, and what is wrong with it (nothing, of a clean directory)."""

    uri: str
    objects: int
    size: int
    """Bytes of the objects that are named."""
    findings: list[Finding]


def verify(uri: str, listener: Listener) -> Verified:
    """Re-read everything that the manifest names, or, without a usable manifest, what the commit records name.

    Memory does not grow with the size of objects: they are read 8 MiB at a time.

    Raises:
        InputError: ``uri`` is no activations directory.
    """
    store = open_store(uri)
    data = require_activations(store)
    there = {info.key: info for info in store.list()}
    commits, findings = _read_commits(store, there)
    named, unusable = _named(store.uri, data, commits)
    findings = [*unusable, *findings]
    findings += _check_commits(commits, named, there)
    findings += _check_objects(store, named, there, listener)
    folders = {key.partition("/")[0] for key in named}
    findings += [
        Finding("surplus", key, "nothing names it")
        for key in there
        if "/" in key and key.partition("/")[0] in folders and key not in named
    ]
    return Verified(store.uri, len(named), sum(found.size for found in named.values()), findings)


def _named(
    uri: str, data: bytes | None, commits: dict[str, dict[str, NamedObject]]
) -> tuple[dict[str, NamedObject], list[Finding]]:
    """What should be there: the manifest's word or, where it cannot be taken, that of the commit records."""
    committed = {key: found for record in commits.values() for key, found in record.items()}
    if data is None:
        return committed, [Finding("missing", MANIFEST, "the harvest is unfinished")]
    try:
        return named_by_manifest(uri, data), []
    except ValueError as error:
        return committed, [Finding("damaged", MANIFEST, str(error))]


def _read_commits(
    store: ObjectStore, there: dict[str, ObjectInfo]
) -> tuple[dict[str, dict[str, NamedObject]], list[Finding]]:
    records, findings = {}, []
    for key in there:
        if key.startswith(COMMITS):
            try:
                records[key] = named_by_commit(store.get(key))
            except ValueError as error:
                findings.append(Finding("damaged", key, str(error)))
    return records, findings


def _check_commits(
    commits: dict[str, dict[str, NamedObject]], named: dict[str, NamedObject], there: dict[str, ObjectInfo]
) -> Iterator[Finding]:
    """Commit records against the manifest: a resumed or repaired harvest trusts them."""
    expected: dict[str, dict[str, NamedObject]] = {}
    for key, found in named.items():
        expected.setdefault(found.commit_key, {})[key] = found
    for key in sorted(expected.keys() - there.keys()):
        yield Finding("missing", key, "the commit record of a shard that the manifest names")
    for key, record in commits.items():
        if key not in expected:
            yield Finding("surplus", key, "the manifest names nothing of its shard")
        elif record != expected[key]:
            yield Finding("damaged", key, "it names other objects than the manifest does")


def _check_objects(
    store: ObjectStore, named: dict[str, NamedObject], there: dict[str, ObjectInfo], listener: Listener
) -> list[Finding]:
    owners = {found.sha256: key for key, found in named.items()}

    def check(found: NamedObject) -> Finding | None:
        if found.key not in there:
            return Finding("missing", found.key, f"{found.size:,} bytes of {found.rows:,} rows")
        reason = _damage(store, found, owners)
        return Finding("damaged", found.key, reason) if reason else None

    findings: list[Finding] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, finding in enumerate(pool.map(check, named.values()), start=1):
            findings += [finding] if finding else []
            listener(Progress("verify", done, len(named), "objects"))
    return findings


def _damage(store: ObjectStore, named: NamedObject, owners: dict[str, str]) -> str | None:
    """What is wrong with an object that is there, or None."""
    try:
        size, sha256 = _digest(store, named.key)
    except FileNotFoundError:
        return "it went away while it was verified"
    if sha256 in owners and owners[sha256] != named.key and sha256 != named.sha256:
        return f"it holds the bytes of {owners[sha256]}"
    if size != named.size:
        return f"it is {size:,} bytes long, {named.size:,} were expected"
    if sha256 != named.sha256:
        return f"its SHA-256 is {sha256[:12]}..., {named.sha256[:12]}... was expected"
    try:
        footer = pq.ParquetFile(open_file(store, named.key, size)).metadata
    except (OSError, pa.ArrowException) as error:
        return f"it is not Parquet: {error}"
    groups = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    if (footer.num_rows, groups) != (named.rows, named.row_groups):
        return f"it has {footer.num_rows:,} rows in groups of {groups}, {named.rows:,} in {named.row_groups} were expected"
    return None


def _digest(store: ObjectStore, key: str) -> tuple[int, str]:
    """Size and SHA-256 of the bytes that are there, however long the listing says the object is."""
    info = store.head(key)
    if info is None:
        raise FileNotFoundError(key)
    digest, at = hashlib.sha256(), 0
    while at < info.size:
        chunk = store.get(key, at, min(_CHUNK_BYTES, info.size - at))
        if not chunk:
            break
        digest.update(chunk)
        at += len(chunk)
    return at, digest.hexdigest()
