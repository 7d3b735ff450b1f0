"""What `saemill hooks` says: the modules of a model that can be harvested."""

import typer
from rich.console import Console
from rich.table import Table

from tasks.config_errors import validated
from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import HookInfo, list_hooks
from tasks.lm.load import load_skeleton
from tasks.lm.names import nearest


def listed(model: str, match: str) -> list[HookInfo]:
    """Hooks of a model whose names contain ``match``; its weights are not read.

    Raises:
        InputError: there is no such model, or it has no such hook.
    """
    if not model:
        raise InputError("MODEL is empty. Give a folder, a .gguf file, an installed package that carries one, or a hub id.")
    hooks = list_hooks(load_skeleton(validated(ModelConfig, "MODEL", name=model)))
    found = [hook for hook in hooks if match in hook.name]
    if not found:
        near = nearest(match, _parts(hooks)) or nearest(match, (hook.name for hook in hooks))
        raise InputError(f"--match is {match!r} but none of the {len(hooks)} hooks of {model!r} contains it.{near}")
    return found


def _parts(hooks: list[HookInfo]) -> list[str]:
    """What hooks' names are made of: 'layers', 'mlp', 'up_proj', ..."""
    return list(dict.fromkeys(part for hook in hooks for part in hook.name.split(".")))


def show(hooks: list[HookInfo], console: Console) -> None:
    """A table on a terminal; elsewhere one line per hook: name, width, depth and kind between tabs."""
    if not console.is_terminal:
        for hook in hooks:
            typer.echo(f"{hook.name}\t{hook.width}\t{hook.depth}\t{hook.kind}")  # rich would turn tabs into spaces
        return
    table = Table("hook", "width", "depth", "kind")
    for hook in hooks:
        table.add_row(hook.name, str(hook.width), str(hook.depth), hook.kind)
    console.print(table)
