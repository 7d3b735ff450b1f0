"""The line of descent of each latent: which latents it was in the versions of its SAE before, as ``saemill match`` found."""

import hashlib
from collections import defaultdict
from typing import Any

import pyarrow as pa

from tasks.errors import ArtifactError, InputError
from tasks.report.inputs import read_table
from tasks.report.numbers import significant
from tasks.storage.artifacts import read_manifest
from tasks.storage.objects import open_store, require

TABLE, STAGE = "identity.parquet", "matches"
_COLUMNS = ("stable_id", "version", "index", "class", "C_d", "R", "parents")

Json = dict[str, Any]


def read_descent(uri: str, sae: str) -> list[Json]:
    """For each latent of an SAE its stable id, its parents, and its index in each version, the first one first.

    Args:
        uri: a finished directory of ``saemill match`` whose last version is the SAE.
        sae: the SAE's URI.

    Raises:
        InputError: it is no such directory, or ends with another SAE.
        ArtifactError: it is damaged.
    """
    manifest = read_manifest(uri)
    if manifest is None or manifest.get("stage") != STAGE:
        raise InputError(f"--identity is {uri}; a finished directory was expected, as saemill match prints it.")
    if manifest.get("sae_sha256") != hashlib.sha256(require(open_store(sae), "sae.safetensors")).hexdigest():
        raise InputError(
            f"--identity is {uri}, whose last version is another SAE than {sae}; give the match that ends with it."
        )
    return descent(read_table(uri, TABLE, _COLUMNS), uri)


def descent(table: pa.Table, uri: str) -> list[Json]:
    """The same of the rows of an identity table; ``uri`` is where it lies, for messages."""
    rows = sorted(table.select(list(_COLUMNS)).to_pylist(), key=lambda row: int(row["version"]))
    by_id = defaultdict(list)
    for row in rows:
        if row["index"] is not None:
            by_id[row["stable_id"]].append(row)
    last = max((row["version"] for row in rows), default=0)
    own = sorted(
        (row for row in rows if row["version"] == last and row["index"] is not None), key=lambda row: int(row["index"])
    )
    if [row["index"] for row in own] != list(range(len(own))):
        raise ArtifactError(f"{uri}/{TABLE} does not number its latents 0, 1, 2... Match again, to another place.")
    return [
        {
            "id": row["stable_id"],
            "parents": by_id[row["stable_id"]][0]["parents"],
            "steps": [_step(step) for step in by_id[row["stable_id"]]],
        }
        for row in own
    ]


def _step(row: Json) -> Json:
    C_d, R = significant([float("nan") if row[name] is None else row[name] for name in ("C_d", "R")], digits=3)
    return {"version": row["version"], "index": row["index"], "class": row["class"], "C_d": C_d, "R": R}
