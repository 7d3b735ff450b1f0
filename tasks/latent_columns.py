"""How a column of ``latents.parquet`` is shown, in the file's own words.

Scoring says it where it computes the column; the report shows what it finds. Between them it travels in the schema's
metadata: under ``KEY`` lies a JSON list of the columns that a table of latents shows, in their order.
"""

import json
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

KEY = b"saemill.latent_columns"

Style = Literal["number", "count", "percent", "density"]


class Shown(BaseModel):
    """How numbers of latents are shown."""

    model_config = ConfigDict(frozen=True)

    title: str = Field(min_length=1)
    """What they are, in a few words."""
    tip: str
    """What they are, in a sentence."""
    digits: int = Field(3, ge=1, le=15)
    """Significant digits in a table of latents; the panel of one latent has room for one more."""
    style: Style = "number"
    """A number, a count with all its digits, a share as a percentage, or a density: a share above a bar on a log scale."""
    heading: str = ""
    """The title in a table's head, where there is little room. Empty: the title."""


class LatentColumn(Shown):
    """A column that is shown."""

    name: str
    """Of the column in the file."""


_COLUMNS = TypeAdapter(tuple[LatentColumn, ...])


def describe(table: pa.Table, columns: Sequence[LatentColumn]) -> pa.Table:
    """The table, with these of its columns to be shown.

    Raises:
        ValueError: it lacks one of them, or holds other things than numbers there.
    """
    _require_numbers(table, columns)
    words = json.dumps([column.model_dump() for column in columns], ensure_ascii=False, sort_keys=True)
    return table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: words.encode()})


def described(table: pa.Table) -> tuple[LatentColumn, ...] | None:
    """The columns that are to be shown; None where the table does not say.

    Raises:
        ValueError: what it says is damaged, or it lacks one of them, or holds other things than numbers there.
    """
    words = (table.schema.metadata or {}).get(KEY)
    if words is None:
        return None
    try:
        columns = _COLUMNS.validate_json(words)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"the schema's {KEY.decode()} is damaged: {where + ': ' if where else ''}{first['msg']}") from None
    _require_numbers(table, columns)
    return columns


def _require_numbers(table: pa.Table, columns: Sequence[LatentColumn]) -> None:
    for column in columns:
        if column.name not in table.column_names:
            raise ValueError(f"there is no column {column.name!r}")
        kind = table.schema.field(column.name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise ValueError(f"the column {column.name!r} holds {kind}, not numbers")
