"""The modules of a model that can be hooks."""

import contextlib

from torch import nn

from tasks.errors import InputError
from tasks.lm.names import nearest, outline, parse_hook

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


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
    raise InputError(f"The model has no module {name!r}.{nearest(name, names)} There are: {', '.join(outline(names))}.")


def first_layer(model: nn.Module) -> nn.Module | None:
    """The first of the longest list of layers; None in a model without one."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return max(lists, key=len)[0] if lists else None
