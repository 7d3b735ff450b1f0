"""The names of hooks: a module's dotted name, and which side of it."""

import contextlib
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from tasks.errors import InputError

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


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


def hook_names(model: nn.Module) -> list[str]:
    """Dotted names of all modules that can be hooks, in the model's order."""
    return [name for name, module in model.named_modules() if name and not isinstance(module, _CONTAINERS)]


def find_module(model: nn.Module, hook: str) -> nn.Module:
    """The module that a hook names.

    Raises:
        InputError: the model has no such module; the message names the nearest ones and those at the top.
    """
    name = parse_hook(hook).module
    with contextlib.suppress(AttributeError):
        module = model.get_submodule(name)
        if not isinstance(module, _CONTAINERS):
            return module
    names = hook_names(model)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    raise InputError(f"The model has no module {name!r}.{hint} There are: {', '.join(_outline(names))}.")


def _outline(names: Sequence[str]) -> list[str]:
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
