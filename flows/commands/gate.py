"""The command ``gate``."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from flows.commands.options import AsJson, Overrides
from flows.console import listening, stdout_kept_clean

SaeUri = Annotated[str, typer.Argument(metavar="CHAMPION", help="The SAE that is in use, as saemill train prints it.")]
OtherUri = Annotated[str, typer.Argument(metavar="CHALLENGER", help="The SAE that may take its place.")]


def gate(
    champion: SaeUri,
    challenger: OtherUri,
    activations: Annotated[
        str, typer.Option(metavar="URI", help="An activations directory, whose held-out rows both are measured on.")
    ],
    tokens: Annotated[
        str | None, typer.Option(metavar="URI", help="The tokens that were harvested: the model's loss is looked at, too.")
    ] = None,
    repeat: Annotated[
        list[str] | None,
        typer.Option(metavar="SAE_URI", help="A training like the champion's with another seed, for chance; several times."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="URI", help="Folder of the ledger. Left out: gates/ beside the activations.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Hold an SAE against the one in use on held-out rows: PROMOTE, HOLD (nothing to gain) or REJECT (exit code 1).

    Both are measured on the same rows. What is worse or better than chance explains is a loss or a win; gates.rules says by
    what, and how much. The ledger, by which the verdict can be checked, is written and its URI printed. --set takes settings
    of gates and model.
    """
    from flows.gating import Asked, gated  # only here, so that the command line starts without torch
    from tasks.gates.ledger import described

    given = (champion, challenger, activations, tokens, tuple(repeat or ()), out, tuple(overrides or ()))
    with listening(Console(stderr=True)) as listener, stdout_kept_clean():
        found = gated(Asked(*given), listener)
    told = {**asdict(found.ledger), "ledger": found.uri}
    typer.echo(json.dumps(told) if as_json else f"{described(found.ledger)}\n{found.uri}")
    raise typer.Exit(1 if found.ledger.verdict == "REJECT" else 0)
