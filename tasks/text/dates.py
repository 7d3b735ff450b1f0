"""Dates of documents: from the path of their file, or from a column."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Self

from tasks.errors import InputError

# 2026-11-20 or 20261120 (no digit on either side), or 2026/11/20 as parts of the path.
_IN_PATH = re.compile(
    r"(?<!\d)(?P<y1>\d{4})-(?P<m1>\d\d)-(?P<d1>\d\d)(?!\d)"
    r"|(?<!\d)(?P<y2>\d{4})(?P<m2>\d\d)(?P<d2>\d\d)(?!\d)"
    r"|(?<=/)(?P<y3>\d{4})/(?P<m3>\d\d)/(?P<d3>\d\d)(?=[/.])"
)


@dataclass(frozen=True, slots=True)
class Window:
    """The days whose documents are read, both ends included."""

    first: date
    last: date

    @classmethod
    def ending_on(cls, last: date, n_days: int) -> Self:
        """The ``n_days`` up to and with ``last``."""
        return cls(date.fromordinal(max(1, last.toordinal() - n_days + 1)), last)

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date) and self.first <= day <= self.last


def path_day(path: str) -> date | None:
    """The last date in a path: 2026-11-20 or 20261120 anywhere, or 2026/11/20 as parts of it."""
    found = [_date_or_none(*(int(part) for part in match.groups() if part)) for match in _IN_PATH.finditer(path)]
    return next((day for day in reversed(found) if day is not None), None)


def day_of(value: Any, column: str, where: str) -> date:
    """The day, in UTC, that a value of a column names: a date, a time, or either in ISO 8601.

    Raises:
        InputError: the value is neither.
    """
    try:
        moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        if isinstance(moment, datetime):
            return (moment.astimezone(UTC) if moment.tzinfo is not None else moment).date()
        if isinstance(moment, date):
            return moment
    except (ValueError, OverflowError):
        pass
    found = "nothing" if value is None else repr(value) if isinstance(value, str) else type(value).__name__
    raise InputError(f"{where}: text.date_column {column!r} holds {found}, but must hold a date such as 2026-11-20.")


def _date_or_none(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None
