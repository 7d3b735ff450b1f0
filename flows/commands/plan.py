"""The command ``plan``."""

import json
from typing import Annotated

import typer
from rich.console import Console

from flows.commands.options import AsJson, ConfigPath, Overrides, Storage
from flows.config import load_config
from flows.console import OnConsole, logged_to, stdout_kept_clean
from tasks.planner.forecast import Prices
from tasks.planner.words import table

Price = Annotated[float | None, typer.Option(min=0, help="What an hour of the machine costs, or of each card with --card.")]
StoragePrice = Annotated[float | None, typer.Option(min=0, help="What 1e9 stored bytes cost a month.")]
PutPrice = Annotated[float | None, typer.Option(min=0, help="What 1,000 PUT or LIST requests cost.")]
GetPrice = Annotated[float | None, typer.Option(min=0, help="What 1,000 GET requests cost.")]


def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    storage: Storage = None,
    card: Annotated[
        str | None, typer.Option(metavar="NAME", help="Plan for GPUs of this kind, by stored measurements: H200 or H100.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Measure this machine, unless it was; or tell only what is known.")
    ] = True,
    price_per_hour: Price = None,
    storage_price_per_gb_month: StoragePrice = None,
    put_price_per_1000: PutPrice = None,
    get_price_per_1000: GetPrice = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a run would take: tokens, bytes, requests, memory, hours and price, stage by stage. What is there is free.

    The text is counted and this machine measured, in some 20 s, once: both are kept in the user's cache folder. Runs on the
    same storage tell it better, and are asked first.
    """
    from flows.plan import planned

    prices = Prices(
        per_hour=price_per_hour,
        per_gb_month=storage_price_per_gb_month,
        per_1000_puts=put_price_per_1000,
        per_1000_gets=get_price_per_1000,
    )
    with logged_to(OnConsole(Console(stderr=True))), stdout_kept_clean():
        found = planned(load_config(config, overrides or (), storage), measure=probe, card=card, prices=prices)
    typer.echo(json.dumps(found.to_json()) if as_json else "\n".join(table(found)))
