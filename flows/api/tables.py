"""Scores as pandas data frames."""

import os

import pandas as pd
import pyarrow.compute as pc

from tasks.errors import InputError
from tasks.report.inputs import read_table
from tasks.storage.artifacts import require_manifest
from tasks.storage.objects import open_store


def latents(uri: str | os.PathLike[str]) -> pd.DataFrame:
    """A row for each latent of an SAE that was scored, by its number.

    The columns tell how often it fires and how strongly, which tokens it promotes and suppresses, and which latents are
    like it.

    Args:
        uri: a scores directory, as ``saemill score`` prints it.

    Raises:
        InputError: it is a directory of something else.
        ArtifactError: it is unfinished or damaged.
    """
    frame: pd.DataFrame = read_table(_scores(uri), "latents.parquet", ("latent",)).to_pandas()
    return frame.set_index("latent").sort_index()


def examples(uri: str | os.PathLike[str], latent: int | None = None) -> pd.DataFrame:
    """A row for each context in which a latent fires, with its tokens and the latent's activation on each of them.

    ``kind`` is ``top`` for the strongest ones and ``q1``, ``q2``, ... for a fair sample of the weaker ones.

    Args:
        uri: a scores directory, as ``saemill score`` prints it.
        latent: whose contexts; None: those of all latents.

    Raises:
        InputError: it is a directory of something else.
        ArtifactError: it is unfinished or damaged.
    """
    table = read_table(_scores(uri), "examples.parquet", ("latent", "kind", "rank", "tokens", "token_activations"))
    if latent is not None:
        table = table.filter(pc.equal(table["latent"], latent))
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _scores(uri: str | os.PathLike[str]) -> str:
    """The whole URI of a finished scores directory."""
    found = open_store(os.fspath(uri)).uri
    stage = require_manifest(found).get("stage")
    if stage != "scores":
        raise InputError(
            f"{found} is a directory of stage {stage}; the URI of scores was expected, as saemill score prints it."
        )
    return found
