"""The command ``serve``."""

from typing import Annotated

import typer

from flows.commands.options import Storage
from flows.defaults import CONFIGURATION, CRON, NIGHTLY, TIMEZONE


def serve(
    config: Annotated[
        str, typer.Option(metavar="CONFIG", help="What the forms of the deployments pipeline and sweep begin with.")
    ] = f"configs/{CONFIGURATION}.yaml",
    nightly: Annotated[
        str, typer.Option(metavar="CONFIG", help="Settings of the deployment nightly.")
    ] = f"configs/{NIGHTLY}.yaml",
    cron: Annotated[
        str | None, typer.Option(help=f"When nightly starts. Left out: as edited in the UI, at first '{CRON}'.")
    ] = None,
    timezone: Annotated[str, typer.Option(help="Time zone of --cron.")] = TIMEZONE,
    port: Annotated[int, typer.Option(min=1, max=65534, help="Port of the Prefect server, on loopback only.")] = 4200,
    server: Annotated[str | None, typer.Option(metavar="URL", help="Use the Prefect server that runs there.")] = None,
    storage: Storage = None,
) -> None:
    """Start a Prefect server with the deployments pipeline, sweep and nightly, and run what is started there.

    pipeline and sweep are started from a form, nightly by the clock; its schedule is edited in the UI. The server answers on
    127.0.0.1 only, to whoever opens the link that is printed. Runs of a deployment never overlap, and a night that was
    missed is skipped.
    """
    from flows.serve import ServeOptions, serve

    serve(ServeOptions(config, nightly, cron, timezone, storage, port, server))
