"""What `saemill architectures` says: the names for sae.arch, what each is, and which settings it reads."""

from collections.abc import Iterator

import typer
from rich.console import Console
from rich.table import Table

from tasks.sae.architectures.names import NAMES, describe


def described() -> list[dict[str, object]]:
    """Each architecture's name, what it is, and the settings of ``sae`` that it reads beside those that all read."""
    return [{"name": name, "about": about, "settings": settings} for name, about, settings in _rows()]


def show(console: Console) -> None:
    """A table on a terminal; elsewhere one line per architecture: name, what it is and its settings between tabs."""
    if not console.is_terminal:
        for name, about, settings in _rows():
            typer.echo(f"{name}\t{about}\t{' '.join(settings)}")  # rich would turn tabs into spaces
        return
    table = Table("sae.arch", "what it is", "its settings")
    for name, about, settings in _rows():
        table.add_row(name, about, ", ".join(settings))
    console.print(table)


def _rows() -> Iterator[tuple[str, str, list[str]]]:
    for name in NAMES:
        found = describe(name)
        yield name, found.about, list(found.settings)
