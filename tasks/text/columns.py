"""Columns of a Parquet file: whether they hold what they should, and their values whatever bytes stand in them."""

from typing import Any

import pyarrow as pa

from tasks.errors import InputError
from tasks.storage.foreign import require_once
from tasks.text.documents import Form


def check_columns(uri: str, schema: pa.Schema, form: Form) -> None:
    """Refuse a file at once, rather than at its first row.

    Raises:
        InputError: a column is missing, or the one of the text, the messages or the date holds something else.
    """
    for column in form.columns:
        require_once(uri, schema.names, column, _setting(form, column))
    kind = _plain(schema.field(form.column).type)
    if form.is_chat and not _is_messages(kind):
        raise InputError(f"{uri}: text.chat_column {form.column!r} holds {kind}, not lists of messages (role, content).")
    if not form.is_chat and not _is_text(kind):
        raise InputError(f"{uri}: text.column {form.column!r} holds {kind}, not text.")
    if form.date_column is not None and not _is_day(_plain(schema.field(form.date_column).type)):
        kind = schema.field(form.date_column).type
        raise InputError(f"{uri}: text.date_column {form.date_column!r} holds {kind}, not dates, times or text.")


def _setting(form: Form, column: str) -> str:
    if column == form.column:
        return form.setting
    return "text.date_column" if column == form.date_column else "text.title_columns"


def undecoded(schema: pa.Schema, date_column: str | None) -> pa.Schema:
    """Strings as bytes, since Arrow would raise at the first invalid UTF-8 rather than replace it; times in UTC."""
    return pa.schema([(field.name, _as_bytes(field.type, field.name == date_column)) for field in schema])


def decoded(value: Any) -> Any:
    """Bytes as text, however deep they lie, with U+FFFD for what is no UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if isinstance(value, dict):
        return {name: decoded(item) for name, item in value.items()}
    return value


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
    )
    return any(check(kind) for check in checks)


def _is_messages(kind: pa.DataType) -> bool:
    if not _is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    names = {field.name for field in kind.value_type if _is_text(_plain(field.type))}
    return {"role", "content"} <= names


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view, types.is_fixed_size_list)
    return any(check(kind) for check in checks)


def _is_day(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind)) or _is_text(kind)


def _as_bytes(kind: pa.DataType, is_day: bool) -> pa.DataType:
    kind = _plain(kind)
    if _is_text(kind):
        return pa.large_binary()
    if is_day and pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz is not None else None)  # Python knows no nanoseconds, nor every zone
    if _is_list(kind):
        return pa.large_list(_as_bytes(kind.value_type, False))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _as_bytes(field.type, False)) for field in kind])
    return kind
