"""The commands that help to begin: what a model and the settings offer, and a configuration of one's own.

What they need is imported by each, as hooks and init load libraries that the others do without.
"""

import dataclasses
import json
import shlex
from typing import Annotated

import typer
from rich.console import Console

from flows.commands.options import AsJson, ModelName, complete_group
from flows.console import say, stdout_kept_clean


def hooks(
    model: ModelName,
    match: Annotated[str, typer.Option(metavar="TEXT", help="Only hooks whose name contains this.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the modules of a model that can be harvested: name, width, depth (order of the first call) and kind.

    The model's weights are not read.
    """
    from flows.hooks import listed, show

    with stdout_kept_clean():
        found = listed(model, match)
    if as_json:
        typer.echo(json.dumps({"model": model, "hooks": [dataclasses.asdict(hook) for hook in found]}))
    else:
        show(found, Console())


def architectures(as_json: AsJson = False) -> None:
    """List the architectures that sae.arch may name, and the settings of sae that each reads."""
    from flows.architectures import described, show

    if as_json:
        typer.echo(json.dumps({"architectures": described()}))
    else:
        show(Console())


def init(
    model: ModelName,
    text: Annotated[
        str, typer.Option(metavar="SOURCE", help="Path, glob, folder or s3:// URI of text, or a Hugging Face dataset.")
    ],
    column: Annotated[str, typer.Option(metavar="NAME", help="Column or JSON key that holds the text.")] = "text",
    hook: Annotated[
        str | None, typer.Option(metavar="HOOK", help="Left out: the residual stream at two fifths of the depth.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Not there yet. Left out: named after the model, in this folder.")
    ] = None,
    storage: Annotated[str, typer.Option(metavar="URI", help="Root of all results.")] = "runs",
) -> None:
    """Write a commented configuration for your own model and text, with sizes that fit them, and print its path.

    The sizes fit this machine, too: its cores, its memory and its free disk.
    """
    from flows.init import written

    with stdout_kept_clean():
        path = written(model, text, column, hook, out, storage)
    typer.echo(path)
    say(Console(stderr=True), f"saemill run {shlex.quote(str(path))}")


def settings(
    group: Annotated[
        str, typer.Argument(metavar="GROUP", help="Only these, such as sae or sae.k.", autocompletion=complete_group)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the settings that a configuration or --set may name: kind, bounds, default and meaning."""
    from flows.settings import listed, show

    found = listed(group)
    if as_json:
        typer.echo(json.dumps({"settings": [dataclasses.asdict(setting) for setting in found]}))
    else:
        show(found, Console())
