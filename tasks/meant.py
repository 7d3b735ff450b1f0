"""Whether a value is what a setting's kind means, before pydantic turns it into that kind.

Pydantic by itself takes True for the number 1, and "yes", "on" and 1 for true. And here is where counts may be written as
``1M``, and what no text may hold.
"""

import re
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tasks.counts import count

_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?")
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
MOST_CHARACTERS = 4096


class NotMeantError(ValueError):
    """A value is not of the kind that a setting has; the text goes on from 'sae.k is true but'."""

    def __init__(self, told: str, within: tuple[str, ...] = (), found: object = None) -> None:
        super().__init__(told)
        self.within = within
        """Names and places below the setting that was asked about."""
        self.found = found


def meant(value: Any, annotation: Any) -> Any:
    """``value``, or the number that it is written for.

    Raises:
        NotMeantError: it is not of the kind that the annotation names, and pydantic would take it for another value.
    """
    if is_dataclass(annotation) and isinstance(annotation, type):
        return _group(value, annotation) if isinstance(value, Mapping) else value
    if positions := _positions(annotation):
        return _position(value, positions)
    kinds = _kinds(annotation)
    if isinstance(value, (list, tuple)):
        return type(value)(_within(item, annotation, str(place)) for place, item in enumerate(value))
    if isinstance(value, bool):
        return _boolean(value, kinds)
    if isinstance(value, str):
        return _text(value, kinds)
    if bool in kinds and value is not None:
        raise NotMeantError("must be true or false", found=value)
    return value


def _positions(annotation: Any) -> tuple[Any, ...]:
    """Of a switch with more than two positions, such as Literal["auto", True, False]; else none."""
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    return values if any(isinstance(value, bool) for value in values) else ()


def _position(value: Any, positions: tuple[Any, ...]) -> Any:
    """Pydantic would take 1 for True, which equals it."""
    if not any(type(value) is type(position) and value == position for position in positions):
        *names, last = (str(position).lower() for position in positions)
        raise NotMeantError(f"must be {', '.join(names)} or {last}", found=value)
    return value


def _group(value: Mapping[str, Any], group: type) -> dict[str, Any]:
    hints = get_type_hints(group)
    return {name: _within(item, hints[name], name) if name in hints else item for name, item in value.items()}


def _within(value: Any, annotation: Any, name: str) -> Any:
    try:
        return meant(value, annotation)
    except NotMeantError as error:
        raise NotMeantError(str(error), (name, *error.within), error.found) from None


def _boolean(value: bool, kinds: frozenset[Any]) -> bool:
    if bool not in kinds and kinds & {int, float}:
        raise NotMeantError("must be a number", found=value)
    return value


def _text(value: str, kinds: frozenset[Any]) -> Any:
    if len(value) > MOST_CHARACTERS:
        raise NotMeantError(f"must have at most {MOST_CHARACTERS:,} characters, not {len(value):,}", found=value)
    if _NO_TEXT.search(value):
        raise NotMeantError("must not hold control characters or halves of surrogate pairs", found=value)
    if str in kinds or kinds & {"literal"}:
        return value
    if int in kinds:
        found = count(value)
        if found is None:
            raise NotMeantError("must be a whole number, such as 700_000, 1e6 or 1.5M", found=value)
        return found
    if float in kinds and not _FLOAT.fullmatch(value):
        raise NotMeantError("must be a number", found=value)
    if bool in kinds:
        raise NotMeantError("must be true or false", found=value)
    return value


@cache
def _kinds(annotation: Any) -> frozenset[Any]:
    """The plain types that an annotation allows, such as {int, NoneType}; of lists, those of what they hold."""
    if annotation in (int, float, bool, str, types.NoneType):
        return frozenset({annotation})
    if get_origin(annotation) is Literal:
        return frozenset({"literal"})
    return frozenset(kind for part in get_args(annotation) for kind in _kinds(part))
