"""A directory that ``saemill match`` wrote, read back."""

import io
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import ArtifactError, InputError
from tasks.identity.table import SCHEMA, ids_of
from tasks.storage.artifacts import read_manifest
from tasks.storage.faults import FAULTS, reason_of
from tasks.storage.objects import open_store, require

TABLE = "identity.parquet"
STAGE = "matches"
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")


@dataclass(frozen=True, slots=True)
class Line:
    """Versions of an SAE, up to one of them, and the ids of all their latents."""

    name: str
    version: int
    """The last one."""
    sae_sha256: str
    """Of the weights of the SAE that it is."""
    table: pa.Table
    """Rows of all versions."""

    @property
    def ids(self) -> list[str]:
        """Of the last version's latents, in their order."""
        return ids_of(self.table, self.version)


def read_line(uri: str) -> Line:
    """The line that a finished directory of ``saemill match`` ends.

    Raises:
        InputError: it is no such directory, or not finished.
        ArtifactError: it is damaged.
    """
    manifest = read_manifest(uri)
    if manifest is None or manifest.get("stage") != STAGE:
        raise InputError(f"{uri} is no identity table: a finished directory was expected, as saemill match prints it.")
    facts = [manifest.get(name) for name in ("name", "version", "sae_sha256")]
    if not (isinstance(facts[0], str) and isinstance(facts[1], int) and isinstance(facts[2], str)):
        raise ArtifactError(f"{uri}/manifest.json does not say which SAE its table is of. Match again, to another place.")
    return Line(facts[0], facts[1], facts[2], _table(uri))


def require_name(name: str) -> str:
    """A name that ids can begin with.

    Raises:
        InputError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"--name is {name!r}; a name of letters, digits, _ and - was expected, since ids begin with it.")
    return name


def summary_of(uri: str) -> dict[str, Any] | None:
    """What a finished match says; None where it is not finished."""
    manifest = read_manifest(uri)
    summary = None if manifest is None else manifest.get("summary")
    return summary if isinstance(summary, dict) else None


def to_parquet(table: pa.Table) -> bytes:
    """A table's file; equal bytes for equal tables."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=2**16)
    return sink.getvalue()


def _table(uri: str) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(require(open_store(uri), TABLE)))
    except FAULTS as error:
        raise ArtifactError(f"{uri}/{TABLE} is damaged: {reason_of(error)}. Match again, to another place.") from None
    if not table.schema.equals(SCHEMA):
        raise ArtifactError(f"{uri}/{TABLE} has other columns than an identity table. Match again, to another place.")
    return table
