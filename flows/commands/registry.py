"""The commands for registries: registry list, show, history, add and tag, promote and rollback."""

import json
from typing import Annotated

import typer

from flows.commands.options import AsJson
from flows.commands.options import RegistryStorage as Storage

Name = Annotated[str, typer.Argument(metavar="NAME", help="The registry, as registry.name of a configuration.")]
Reference = Annotated[
    str, typer.Argument(metavar="NAME@VERSION", help="A version: NAME@3, NAME@challenger, NAME@champion~1.")
]
Why = Annotated[str, typer.Option(metavar="TEXT", help="The reason, which registry history shows.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="SAEs by name and version, and what became of them.")


@app.command("list")
def list_versions(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one.")] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """List registries with their versions, a line each: figures, aliases, tags and where the SAE is."""
    from flows import registry

    found = registry.listed(storage, name)
    typer.echo(json.dumps({"registries": found}) if as_json else registry.described_list(found))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Of NAME alone: its champion, or else its newest.")],
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a version: what it was made of, its figures, its verdict, who registered it when."""
    from flows import registry

    found = registry.shown(storage, name)
    typer.echo(json.dumps(found) if as_json else registry.described_version(found))


@app.command()
def history(name: Name, storage: Storage = None, as_json: AsJson = False) -> None:
    """List every move of every alias, the oldest first: what it left, who moved it when, and why."""
    from flows import registry

    found = registry.moved(storage, name)
    typer.echo(json.dumps({"name": name, "moves": found}) if as_json else registry.described_history(found))


@app.command()
def add(
    name: Name,
    sae: Annotated[str, typer.Argument(metavar="SAE_URI", help="A finished SAE, trained or imported.")],
    scores: Annotated[str | None, typer.Option(metavar="URI", help="Its scores, whose figures the version shows.")] = None,
    started_from: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The version from whose weights its training began.")
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="May be given several times.")] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Register an SAE by hand as a new version, and print it. What is registered already keeps its version."""
    from flows import registry

    found = registry.added(storage, name, sae, scores, started_from, tags or [])
    typer.echo(json.dumps(found) if as_json else registry.described_addition(found))


@app.command()
def tag(
    version: Reference,
    name: Annotated[
        str, typer.Argument(metavar="TAG", help="Such as keep, with which gc --registry leaves a version alone.")
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Give a version a tag, or take it away, and print its tags."""
    from flows import registry

    found = registry.tagged(storage, version, name, present=not remove)
    typer.echo(json.dumps(found) if as_json else f"{found['version']}: {', '.join(found['tags']) or 'no tags'}")


def promote(
    version: Reference,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    why: Why = "",
    force: Annotated[bool, typer.Option("--force", help="Also a version that was rejected; this is recorded.")] = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion, unless its verdict is REJECT. Of two promotions at once, one is refused."""
    from flows import registry

    found = registry.promoted(storage, version, why, force=force, dry_run=dry_run)
    typer.echo(json.dumps(found) if as_json else registry.described_promotion(found))


def rollback(
    name: Name,
    to: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="To this version; nothing happens where it is champion already.")
    ] = None,
    why: Why = "",
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Make the champion before this one champion again; nothing is deleted.

    Each rollback goes one promotion further back. To go forward again, promote the version.
    """
    from flows import registry

    found = registry.rolled_back(storage, name, why, to)
    typer.echo(json.dumps(found) if as_json else registry.described_rollback(found))
