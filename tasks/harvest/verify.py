"""Whether an activations directory still holds what its manifest says, byte by byte."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pyarrow.parquet as pq

from tasks.activations.schema import RowFormat
from tasks.activations.shard_file import reading
from tasks.harvest.named import (
    COMMITS,
    Lake,
    NamedObject,
    commit_key,
    is_data_key,
    named_by_commit,
    named_by_manifest,
    open_lake,
)
from tasks.progress import Listener, Progress
from tasks.storage.artifacts import MANIFEST, parse_json
from tasks.storage.base import ObjectInfo, ObjectStore
from tasks.storage.faults import FAULTS, reason_of

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

    lake: Lake
    objects: int
    size: int
    """Bytes of the objects that are named."""
    findings: list[Finding]

    @property
    def uri(self) -> str:
        """The directory."""
        return self.lake.home.uri


def verify(uri: str, listener: Listener, shards: str | None = None) -> Verified:
    """Re-read everything that the manifest names, or, without a usable manifest, what the commit records name.

    Memory does not grow with the size of objects: they are read 8 MiB at a time.

    Args:
        uri: an activations directory, or a pool of shards, of which all is read.
        listener: is told how far it is.
        shards: see ``open_lake``.

    Raises:
        InputError: ``uri`` is no activations directory.
    """
    lake = open_lake(uri, shards)
    there = {info.key: info for info in lake.shards.list()}
    named, findings = _named(lake)
    expected = {found.commit_key for found in named.values()}
    # In a pool, the other records are of other directories' shards.
    records = (expected & there.keys()) if lake.shared and named else {key for key in there if key.startswith(COMMITS)}
    commits, damaged = _read_commits(lake.shards, sorted(records))
    findings += damaged
    if not named:
        named = {key: found for record in commits.values() for key, found in record.items()}
    findings += _check_commits(commits, named, there)
    findings += _check_objects(lake.shards, named, there, listener)
    findings += _surplus(there, named)
    findings += _check_widths(lake, {finding.key for finding in findings})
    return Verified(lake, len(named), sum(found.size for found in named.values()), findings)


def _named(lake: Lake) -> tuple[dict[str, NamedObject], list[Finding]]:
    """What the manifest says should be there: nothing, where its word cannot be taken."""
    if lake.manifest is None:
        return {}, [] if lake.is_pool else [Finding("missing", MANIFEST, "the harvest is unfinished")]
    try:
        return named_by_manifest(lake.home.uri, lake.manifest), []
    except ValueError as error:
        return {}, [Finding("damaged", MANIFEST, str(error))]


def _check_widths(lake: Lake, faulty: set[str]) -> Iterator[Finding]:
    """The manifest's width and dtype of each hook against the footer of its first whole shard."""
    if lake.manifest is None or MANIFEST in faulty:
        return
    for hook, entry in parse_json(lake.manifest)["hooks"].items():
        keys = [shard["key"] for split in entry["splits"].values() for shard in split["shards"]]
        whole = next((key for key in keys if key not in faulty), None)
        if whole is None:
            continue
        with reading(lake.shards, whole):
            found = RowFormat.of(pq.read_schema(lake.shards.open(whole)), whole)
        if (found.d_in, found.dtype) != (entry["d_in"], entry["dtype"]):
            reason = (
                f"it says {entry['d_in']} x {entry['dtype']} of {hook}, which holds rows of {found.d_in} x {found.dtype}"
            )
            yield Finding("damaged", MANIFEST, reason)


def _surplus(there: dict[str, ObjectInfo], named: dict[str, NamedObject]) -> Iterator[Finding]:
    folders = {key.partition("/")[0] for key in named}
    mine = {found.commit_key for found in named.values()}
    for key in there:
        if "/" not in key or key in named or key.partition("/")[0] not in folders:
            continue
        # Rows whose shard has a record of its own are another directory's.
        record = commit_key(key) if is_data_key(key) else None
        if record is None or record in mine or record not in there:
            yield Finding("surplus", key, "nothing names it")


def _read_commits(store: ObjectStore, keys: list[str]) -> tuple[dict[str, dict[str, NamedObject]], list[Finding]]:
    records, findings = {}, []
    for key in keys:
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
        footer = pq.ParquetFile(store.open(named.key, size)).metadata
    except FAULTS as error:
        return f"it is not Parquet: {reason_of(error)}"
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
