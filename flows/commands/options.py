"""Arguments and options that several commands take, and what a shell may put for their beginnings."""

import glob
from pathlib import Path
from typing import Annotated

import typer

from flows.config import PipelineConfig


def complete_group(incomplete: str) -> list[str]:
    """The groups of settings whose names begin so."""
    return [name for name in PipelineConfig.model_fields if name.startswith(incomplete)]


def _complete_setting(incomplete: str) -> list[str]:
    from flows.settings import completed

    return completed(incomplete)


def _complete_config(incomplete: str) -> list[str]:
    folder, _, name = incomplete.rpartition("/")
    found = Path(folder or ("/" if incomplete.startswith("/") else ".")).glob(f"{glob.escape(name)}*")
    prefix = incomplete.removesuffix(name)
    return sorted(f"{prefix}{path.name}{'/' if path.is_dir() else ''}" for path in found if _may_hold_settings(path))


def _may_hold_settings(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or path.suffix in (".yaml", ".yml"))


ConfigPath = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="YAML file of settings, such as configs/demo.yaml.", autocompletion=_complete_config
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help=(
            "Change a setting, such as sae.k=16; counts may be written as 1M, 1.5k or 1e6. May be given several times; "
            "saemill settings lists them."
        ),
        autocompletion=_complete_setting,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(metavar="URI", help="Root of all results: a folder or s3://bucket/prefix. Same as --set storage=URI."),
]
RegistryStorage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URI",
        help="Where NAME@champion is looked up: root of all results. Left out: SAEMILL_STORAGE, else runs.",
    ),
]
ConfigOrSae = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG|SAE_URI",
        help="YAML file of settings, or an SAE: its directory, as saemill train or import prints it, or NAME@champion.",
        autocompletion=_complete_config,
    ),
]
OfActivations = Annotated[
    str | None, typer.Argument(metavar="[ACTIVATIONS_URI]", help="With SAE_URI: an activations directory.")
]
OfScores = Annotated[str | None, typer.Argument(metavar="[SCORES_URI]", help="With SAE_URI: its scores.")]
OfTokens = Annotated[
    str | None, typer.Option("--tokens", metavar="URI", help="With SAE_URI: the tokens that were harvested, for their text.")
]
ReadHook = Annotated[
    str | None, typer.Option("--hook", metavar="HOOK", help="With SAE_URI: the hook that it reads. Left out: as it says.")
]
RebuiltHook = Annotated[
    str | None, typer.Option("--target-hook", metavar="HOOK", help="With SAE_URI: the hook that a transcoder rebuilds.")
]
OutUri = Annotated[
    str | None,
    typer.Option("--out", metavar="URI", help="With SAE_URI: where to. Left out: beside the activations, by its content."),
]
OfIdentity = Annotated[
    str | None,
    typer.Option("--identity", metavar="URI", help="With SAE_URI: a match that ends with it, for lines of descent."),
]
ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, .gguf file, package that carries one, or hub id.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, last, on stdout.")]
