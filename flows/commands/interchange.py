"""The commands by which SAEs and their codes leave saemill and come to it: export, import and encode."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.commands.options import AsJson, RegistryStorage
from flows.console import listening, stdout_kept_clean
from flows.references import sae_at
from tasks.harvest.export import SplitName
from tasks.interchange.formats import FormatName

if TYPE_CHECKING:
    from tasks.encode.encode import Encoded
    from tasks.interchange.transfer import Transferred

SaeUri = Annotated[
    str,
    typer.Argument(metavar="SAE_URI", help="An SAE directory, as saemill train prints it, or a version: NAME@champion."),
]
OtherFormat = Annotated[FormatName, typer.Option("--format", help="The library whose files they are.")]


def export_sae(
    uri: SaeUri,
    file_format: OtherFormat,
    out: Annotated[str, typer.Option(metavar="DIR", help="A folder or s3://bucket/prefix; files there are never changed.")],
    storage: RegistryStorage = None,
    as_json: AsJson = False,
) -> None:
    """Write an SAE as another library keeps it, ready for that library's own class, and print where it is.

    What a format cannot hold is refused with the reason.
    """
    from tasks.interchange import transfer  # only here, so that the command line starts without torch

    with stdout_kept_clean():
        found = transfer.export_sae(sae_at(uri, storage), file_format, out)
    typer.echo(json.dumps(asdict(found)) if as_json else described_transfer(found))


def import_sae(
    source: Annotated[str, typer.Argument(metavar="DIR", help="A folder or s3:// prefix that the other library wrote.")],
    file_format: OtherFormat,
    out: Annotated[str, typer.Option(metavar="URI", help="Where the SAE directory comes to be, not there yet.")],
    as_json: AsJson = False,
) -> None:
    """Make an SAE directory of another library's SAE, with the codes that it gives there, and print where it is."""
    from tasks.interchange import transfer

    with stdout_kept_clean():
        found = transfer.import_sae(source, file_format, out)
    typer.echo(json.dumps(asdict(found)) if as_json else described_transfer(found))


def encode(
    uri: SaeUri,
    activations: Annotated[
        str, typer.Argument(metavar="ACTIVATIONS_URI", help="An activations directory, as saemill harvest prints it.")
    ],
    out: Annotated[str, typer.Option(metavar="URI", help="A folder or s3://bucket/prefix, empty or not there yet.")],
    hook: Annotated[
        str | None, typer.Option(metavar="HOOK", help="Whose rows; left out: those of the SAE's own hook.")
    ] = None,
    split: Annotated[SplitName | None, typer.Option(help="Which rows; left out: all.")] = None,
    storage: RegistryStorage = None,
    as_json: AsJson = False,
) -> None:
    """Write the sparse codes of activations to Parquet, a row per token, and print where they are.

    The columns are sequence, position, token_id, latents and values, for pyarrow, Polars and DuckDB to read.
    """
    from tasks.encode.encode import encode_activations

    with listening(Console(stderr=True)) as listener, stdout_kept_clean():
        found = encode_activations(sae_at(uri, storage), activations, out, listener, hook=hook, split=split)
    typer.echo(json.dumps(asdict(found)) if as_json else described_codes(found))


def described_transfer(found: "Transferred") -> str:
    """Where the SAE is and what it is, in one line."""
    earlier = " (there already)" if found.earlier else ""
    return f"{found.uri}: {', '.join(found.files)}; {found.arch}, d_in {found.d_in}, d_sae {found.d_sae}{earlier}"


def described_codes(found: "Encoded") -> str:
    """Where the files are and what they hold, in one line."""
    earlier = " (finished earlier)" if found.earlier else ""
    rows = f"{found.rows:,} rows of {', '.join(found.hooks)}"
    return f"{found.uri}: {rows}, {found.l0:.2f} latents each, in {found.files:,} files, {found.size:,} bytes{earlier}"
