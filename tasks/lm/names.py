"""The names of hooks: a module's dotted name, and which side of it. No torch here: settings are checked by it."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.errors import InputError


@dataclass(frozen=True, slots=True)
class Hook:
    """A place in the model: a module by dotted name, and a side of it."""

    module: str
    side: Literal["input", "output"]


def parse_hook(text: str) -> Hook:
    """Read ``dotted.module``, ``dotted.module:output`` or ``dotted.module:input``.

    Raises:
        InputError: the text is of another form.
    """
    module, colon, side = text.partition(":")
    if module and side == "input":
        return Hook(module, "input")
    if module and (side == "output" or not colon):
        return Hook(module, "output")
    raise InputError(f"Hook {text!r} is not of the form dotted.module, dotted.module:output or dotted.module:input.")


def canonical(hook: str) -> str:
    """The one name of a hook that has two: ``x`` for ``x:output``.

    Raises:
        InputError: as ``parse_hook``.
    """
    found = parse_hook(hook)
    return found.module if found.side == "output" else f"{found.module}:input"


def nearest(name: str, names: Iterable[str]) -> str:
    """The names that are most like one that does not exist, as a sentence; empty where none is like it."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def outline(names: Sequence[str]) -> list[str]:
    """Names down to one level below the layers, numbers folded: 'model.layers.0..29.mlp'."""
    folded: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=\.|$)", name)
        rest = name[number.end() :] if number else ""
        if rest.count(".") > 1 or (not number and name.count(".") > 1):
            continue
        pattern = f"{name[: number.start()]}{{}}{rest}" if number else name
        folded.setdefault(pattern, []).extend([int(number.group())] if number else [])
    return [pattern.format(f"{min(n)}..{max(n)}") if n else pattern for pattern, n in folded.items()]
