"""The commands for activations as they lie: verify, gc, repair and export-activations."""

import dataclasses
import json
from typing import Annotated

import typer

from flows.commands.options import AsJson, ConfigPath, Overrides, RegistryStorage, Storage
from flows.config import load_config
from flows.console import stdout_kept_clean
from flows.in_process import run_in_process
from flows.registered import now
from tasks.errors import InputError
from tasks.harvest.export import CONTEXT, SplitName
from tasks.harvest.formats import FormatName

ActivationsUri = Annotated[
    str, typer.Argument(metavar="URI", help="An activations directory, as saemill harvest prints it.")
]


def verify(uri: ActivationsUri, as_json: AsJson = False) -> None:
    """Re-read everything in an activations directory and name what is damaged, missing or surplus (exit code 1)."""
    from flows.lake import described_verification, verification_as_json, verified

    found = verified(uri)
    typer.echo(json.dumps(verification_as_json(found)) if as_json else described_verification(found))
    raise typer.Exit(1 if found.findings else 0)


def gc(
    uri: Annotated[str | None, typer.Argument(metavar="[URI]", help="An activations directory.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    registry: Annotated[
        str | None, typer.Option(metavar="NAME", help="In place of URI: what versions of this registry no longer need.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="CONFIG", help="In place of URI: the registry of this configuration, and its settings."),
    ] = None,
    keep_versions: Annotated[
        int | None, typer.Option(metavar="N", help="Of a registry: how many of the newest versions stay (5).")
    ] = None,
    keep_champion_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Of a registry: for how long former champions stay (90).")
    ] = None,
    storage: RegistryStorage = None,
    as_json: AsJson = False,
) -> None:
    """Remove rows that nothing names and half-written files, older than a day, from an activations directory.

    Harvests that were killed leave them behind. With --registry or --config go the SAEs of versions that are not kept, their
    scores and reports, and activations that nothing else needs; every directory is listed with its bytes and the reason.
    """
    of_registry = registry is not None or config is not None
    if of_registry and uri is None:
        from flows import retention

        given = {"name": registry, "keep_versions": keep_versions, "keep_champion_days": keep_champion_days}
        root, settings = retention.asked(config, storage, given)
        swept = retention.swept(root, settings, now(), dry_run=dry_run)
        typer.echo(json.dumps(retention.swept_as_json(swept)) if as_json else retention.described_sweep(swept))
        return
    if uri is None or of_registry:
        raise InputError("Give one of two: URI, an activations directory as saemill harvest prints it, or --registry NAME.")
    from flows.lake import collection_as_json, described_collection
    from tasks.harvest.gc import gc

    found = gc(uri, dry_run=dry_run)
    typer.echo(json.dumps(collection_as_json(found)) if as_json else described_collection(found))


def repair(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Harvest the damaged shards of a configuration's activations again, and only those (exit code 1: they differ).

    They are those that saemill verify names.
    """
    from flows.lake import described_repair, repair_as_json, repaired

    loaded = load_config(config, overrides or (), storage)
    with stdout_kept_clean():
        found = repaired(loaded, lambda: run_in_process(loaded, "harvest"))
    typer.echo(json.dumps(repair_as_json(found)) if as_json else described_repair(found))
    raise typer.Exit(1 if found.identical is False else 0)


def export_activations(
    uri: ActivationsUri,
    file_format: Annotated[
        FormatName, typer.Option("--format", help="Parquet with lists, safetensors, or a Hugging Face dataset.")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="A folder or s3://bucket/prefix, empty or not there yet.")],
    hook: Annotated[str | None, typer.Option(metavar="HOOK", help="Which hook, where there are several.")] = None,
    split: Annotated[SplitName, typer.Option(help="Which rows.")] = "train",
    context: Annotated[
        int, typer.Option(metavar="N", min=1, max=65536, help="Activations per row of hf; SAELens' context_size.")
    ] = CONTEXT,
    as_json: AsJson = False,
) -> None:
    """Write one hook's activations for tools that want lists, tensors or a dataset, and print where they are.

    hf opens with datasets.load_from_disk and has the layout of SAELens' cached activations. Its rows are --context
    activations in stored order, not text sequences; the last ones, where they fill no row, are left out and counted.
    """
    from flows.lake import described_export, exported

    found = exported(uri, out, file_format, hook, split, context)
    typer.echo(json.dumps(dataclasses.asdict(found)) if as_json else described_export(found))
