"""The command ``night``: what the nightly flow does, for those whose clock is another."""

import json
from typing import Any

import typer
from rich.console import Console

from flows.commands.options import AsJson, ConfigPath, Overrides, Storage
from flows.config import load_config
from flows.console import say, stdout_kept_clean
from flows.in_process import told


def night(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Retrain from the champion on what the corpus holds now, judge, follow the latents, and print the page of all nights.

    registry.name says whose nights they are. A night on which nothing is new does nothing, and one that was killed goes on.
    Events go to notify.webhook. Exit code 1 means that the night failed, and the webhook was told.
    """
    from flows.night.run import Step, run_night  # only here, so that the command line starts quickly
    from flows.night.telling import as_object, headline, telling_failures

    loaded, console = load_config(config, overrides or (), storage), Console(stderr=True)
    with stdout_kept_clean(), told() as (call, listener), telling_failures(loaded) as tell:

        def do(name: str, step: Step) -> Any:
            say(console, f"{name}:")
            return step(listener)

        found = run_night(loaded, call, do, tell)
    typer.echo(json.dumps(as_object(found)) if as_json else f"{headline(found)}\n{found.history}/index.html")
