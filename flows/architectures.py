"""What `saemill architectures` says: the names for sae.arch, what each is, and which settings it reads."""

import typer
from rich.console import Console
from rich.table import Table

from tasks.sae.registry import ABOUT, SETTINGS


def described() -> list[dict[str, object]]:
    """Each architecture's name, what it is, and the settings of ``sae`` that it reads beside those that all read."""
    return [{"name": name, "about": about, "settings": list(SETTINGS[name])} for name, about in ABOUT.items()]


def show(console: Console) -> None:
    """A table on a terminal; elsewhere one line per architecture: name, what it is and its settings between tabs."""
    if not console.is_terminal:
        for name, about in ABOUT.items():
            typer.echo(f"{name}\t{about}\t{' '.join(SETTINGS[name])}")  # rich would turn tabs into spaces
        return
    table = Table("sae.arch", "what it is", "its settings")
    for name, about in ABOUT.items():
        table.add_row(name, about, ", ".join(SETTINGS[name]))
    console.print(table)
