"""The command line: which commands there are. What each takes and does stands in ``flows.commands``.

Results go to stdout, everything else to stderr; exit codes are those of ``flows.exits``.
"""

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from flows.commands import (
    beginning,
    gate,
    identity,
    interchange,
    night,
    plan,
    publish,
    registry,
    serve,
    stages,
    stored,
    sweep,
)
from flows.exits import exit_code, stoppable

# Libraries that would write over the progress bars; each still shows its errors.
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "DO_NOT_TRACK": "1",
}

app = typer.Typer(
    help="From text to published, scored sparse-autoencoder features. Every command can be stopped and given again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# In the order in which --help lists them.
app.command()(stages.run)
app.command()(stages.harvest)
app.command()(stages.train)
app.command()(stages.score)
app.command()(stages.report)
app.command()(sweep.sweep)
app.command()(night.night)
app.command()(gate.gate)
app.command()(stages.status)
app.command()(plan.plan)
app.command()(beginning.hooks)
app.command()(beginning.architectures)
app.command()(beginning.init)
app.command()(beginning.settings)
app.command()(stored.verify)
app.command()(stored.gc)
app.command()(stored.repair)
app.command()(stored.export_activations)
app.command("export")(interchange.export_sae)
app.command("import")(interchange.import_sae)
app.command("encode")(interchange.encode)
app.add_typer(registry.app, name="registry")
app.command()(registry.promote)
app.command()(registry.rollback)
app.command()(identity.match)
app.command()(publish.publish)
app.command()(serve.serve)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    with stoppable():
        sys.exit(exit_code(lambda: app(arguments, prog_name="saemill", standalone_mode=False), arguments))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"saemill {version('saemill')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before the command."""


if __name__ == "__main__":
    main()
