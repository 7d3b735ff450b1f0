"""What users keep of latents, such as explanations and watch-lists, from one version of an SAE to the next.

It is a table with a column ``stable_id``. Its rows are kept for latents that are the same, kept with ``recheck`` for those
that drifted, and listed apart for all others.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from tasks.errors import InputError
from tasks.identity.stored import to_parquet
from tasks.storage.faults import FAULTS, reason_of
from tasks.storage.objects import object_at
from tasks.storage.paths import shown

KEPT, DROPPED = "carried", "dropped"
_ADDED = ("index", "class", "recheck")
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Carried:
    """The rows of a user's table, in their order."""

    kept: pa.Table
    """With ``index`` (in the new version), ``class`` and ``recheck``, in place of any columns of these names."""
    dropped: pa.Table
    """With ``class``: died, split, merged, or unknown where no latent of the version before has the id."""

    @property
    def recheck(self) -> int:
        """Rows that are to be looked at again."""
        return int(pc.sum(self.kept["recheck"]).as_py() or 0)

    def files(self, source: str) -> dict[str, bytes]:
        """Both tables as files of the kind that they came from."""
        write, ending = (_csv, "csv") if _is_csv(source) else (to_parquet, "parquet")
        return {f"{KEPT}.{ending}": write(self.kept), f"{DROPPED}.{ending}": write(self.dropped)}


def file_names(source: str) -> tuple[str, str]:
    """The names of both files."""
    ending = "csv" if _is_csv(source) else "parquet"
    return f"{KEPT}.{ending}", f"{DROPPED}.{ending}"


def read_notes(uri: str) -> pa.Table:
    """A user's table, from a Parquet or CSV file.

    Raises:
        InputError: there is none, it cannot be read, or it has no column ``stable_id`` of text.
    """
    try:
        data = object_at(uri).get("")
        table = _read_csv(data) if _is_csv(uri) else pq.read_table(pa.BufferReader(data))
    except FileNotFoundError:
        raise InputError(f"--carry is {shown(uri)}, which is not there; a Parquet or CSV file was expected.") from None
    except FAULTS as error:
        raise InputError(
            f"--carry is {shown(uri)}, which is no readable table ({reason_of(error)}); give a Parquet file, or a CSV file "
            "that ends in .csv."
        ) from None
    if "stable_id" not in table.column_names or not _is_text(table.schema.field("stable_id").type):
        raise InputError(
            f"--carry is {shown(uri)}, whose columns are {', '.join(table.column_names)}; a column stable_id of text was "
            "expected, as in identity.parquet."
        )
    return table


def carried(notes: pa.Table, version: pa.Table) -> Carried:
    """Part a user's table by what became of its latents.

    A row that was to be checked again, and was not yet, stays so.

    Args:
        notes: as ``read_notes`` gives it.
        version: the rows of the new version in an identity table.
    """
    fate = {row["stable_id"]: row for row in version.select(["stable_id", "index", "class"]).to_pylist()}
    found = [_of(fate, stable_id) for stable_id in notes["stable_id"].to_pylist()]
    kept = pa.array([row["class"] in ("same", "drifted") for row in found], pa.bool_())
    kinds = pa.array([row["class"] for row in found], pa.string())
    before = notes["recheck"].to_pylist() if "recheck" in notes.column_names else [False] * len(found)
    recheck = [old in _MARKED or row["class"] == "drifted" for old, row in zip(before, found, strict=True)]
    own = notes.select([name for name in notes.column_names if name not in _ADDED])
    with_fates = (
        own.append_column("index", pa.array([row["index"] for row in found], pa.int32()))
        .append_column("class", kinds)
        .append_column("recheck", pa.array(recheck, pa.bool_()))
    )
    dropped = own.append_column("class", kinds).filter(pc.invert(kept))
    return Carried(with_fates.filter(kept), dropped)


_MARKED = (True, 1, "1", "true", "True", "TRUE", "yes")
"""What people write into the column ``recheck``."""


def _of(fate: Mapping[str, dict[str, object]], stable_id: str) -> dict[str, object]:
    return fate.get(stable_id, {"index": None, "class": _UNKNOWN})


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_csv(uri: str) -> bool:
    return uri.lower().endswith(".csv")


def _read_csv(data: bytes) -> pa.Table:
    """All columns as the text that they are: 007 is no 7."""
    parsed = pa.csv.ParseOptions(newlines_in_values=True)
    names = pa.csv.open_csv(pa.BufferReader(data), parse_options=parsed).schema.names
    as_text = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names})
    return pa.csv.read_csv(pa.BufferReader(data), parse_options=parsed, convert_options=as_text)


def _csv(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pa.csv.write_csv(table, sink)
    return sink.getvalue()
