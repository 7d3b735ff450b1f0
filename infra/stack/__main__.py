"""The command line of the stack."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from flows.exits import exit_code
from infra.stack import processes, stack
from infra.stack.places import HOST, known, usable
from tasks.errors import InputError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)
Folder = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where all of the stack's files lie; a short path.")]
Nodes = Annotated[int, typer.Option("--ray-workers", min=1, max=64, help="Nodes of Ray besides its head.")]


@app.command()
def up(folder: Folder, ray_workers: Nodes = 2) -> None:
    """Start what does not run yet, and wait until all of it is well."""
    with _alone(usable(folder)) as root:
        places, services = stack.described(root, ray_workers)
        for name, seconds in stack.bring_up(places, services):
            typer.echo(f"{name}: {'was up' if seconds is None else f'up after {seconds:.0f} s'}")
        typer.echo(f"Prefect is at http://{HOST}:{places.ports['4200']}, its password in {root}/secrets/PREFECT_PASSWORD.")


@app.command()
def down(folder: Folder) -> None:
    """Stop all of it; what it stored stays."""
    with _alone(known(folder)) as root:
        for name in stack.take_down(root):
            typer.echo(f"{name}: stopped")


@app.command()
def status(folder: Folder) -> None:
    """What runs, with its memory; exit code 1 where something that was started does not."""
    root = known(folder)
    found = processes.running(root)
    typer.echo(f"{'service':14} {'pid':>8} {'processes':>9} {'RSS MiB':>8} {'PSS MiB':>8}")
    sums = [0, 0]
    for name in sorted({*found, *stack.started(root)}):
        first = processes.first(root, name)
        rss, pss = processes.memory(found.get(name, []))
        sums = [sums[0] + rss, sums[1] + pss]
        pid = "ended" if first is None else str(first.pid)
        typer.echo(f"{name:14} {pid:>8} {len(found.get(name, [])):9} {rss / 2**20:8.0f} {pss / 2**20:8.0f}")
    typer.echo(f"{'all':14} {'':>8} {sum(map(len, found.values())):9} {sums[0] / 2**20:8.0f} {sums[1] / 2**20:8.0f}")
    if any(processes.first(root, name) is None for name in stack.started(root)):
        raise typer.Exit(1)


@app.command()
def env(folder: Folder) -> None:
    """Print what a shell needs to use it: eval "$(python -m infra.stack env --dir DIR)"; passwords stay in their files."""
    for line in stack.exports(known(folder)):
        typer.echo(line)


@contextmanager
def _alone(root: Path) -> Iterator[Path]:
    """While no other command changes this stack; the lock goes with this process, however it ends."""
    handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"Another command is at work on the stack in {root}. Give this one again when it has ended."
        ) from None
    try:
        yield root
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: app(prog_name="python -m infra.stack", standalone_mode=False), sys.argv[1:]))
