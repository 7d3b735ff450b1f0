"""Bounds of an SAE's numbers, beside their types: read by the dataclass itself, and by pydantic where it is there.

Pydantic asks whatever stands in ``Annotated`` for ``__get_pydantic_core_schema__``, and from what that gives it makes the
``minimum`` and ``maximum`` of the JSON schema; so nothing of pydantic is imported here.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from typing_extensions import override

_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_KNOWN: dict[type, dict[str, "Within"]] = {}
"""Bounds by field, of dataclasses that were asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    """A finite number is at least ``ge``, above ``gt``, at most ``le`` and below ``lt``, where these are given."""

    ge: int | float | None = None
    gt: int | float | None = None
    le: int | float | None = None
    lt: int | float | None = None

    @property
    def given(self) -> dict[str, int | float]:
        """The bounds that are given, by name."""
        return {name: bound for name in _WORDS if (bound := getattr(self, name)) is not None}

    def holds(self, value: int | float) -> bool:
        """Whether a number is finite and within the bounds."""
        low = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        high = (self.le is None or value <= self.le) and (self.lt is None or value < self.lt)
        return low and high and (isinstance(value, int) or math.isfinite(value))

    @override
    def __str__(self) -> str:
        """As in 'at least 1 and at most 64'."""
        return " and ".join(
            f"{_WORDS[name]} {bound:g}" if bound < 1e6 else f"{_WORDS[name]} {bound:,}" for name, bound in self.given.items()
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """What pydantic would make of the type alone, with the bounds."""
        return handler(source) | self.given


def outside(settings: Any) -> Iterator[tuple[str, int | float, Within]]:
    """Names and values of a dataclass' fields that break the bounds of their annotations, with those."""
    bounds = _bounds(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in bounds and value is not None:
            for number in value if isinstance(value, (tuple, list)) else (value,):
                if not bounds[field.name].holds(number):
                    yield field.name, number, bounds[field.name]


def _bounds(kind: type) -> dict[str, Within]:
    if kind not in _KNOWN:
        hints = get_type_hints(kind, include_extras=True)
        _KNOWN[kind] = {name: found for name, hint in hints.items() if (found := _find(hint)) is not None}
    return _KNOWN[kind]


def _find(annotation: Any) -> Within | None:
    if isinstance(annotation, Within):
        return annotation
    metadata = getattr(annotation, "__metadata__", ())
    return next((found for part in (*metadata, *get_args(annotation)) if (found := _find(part)) is not None), None)
