"""``identity.parquet``: which latent of which version has which id, and where it came from.

A version is one SAE of a line of SAEs. A row is a latent of a version, or one of the version before that ended there.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tasks.identity.matching import Fates, Matching

SCHEMA = pa.schema(
    [
        pa.field("stable_id", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("index", pa.int32()),
        pa.field("class", pa.string(), nullable=False),
        pa.field("C_d", pa.float32()),
        pa.field("C_e", pa.float32()),
        pa.field("R", pa.float32()),
        pa.field("partner", pa.int32()),
        pa.field("nearest", pa.int32()),
        pa.field("n_active", pa.int64()),
        pa.field("parents", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
    ]
)
"""``index`` is empty where a latent ended: died, was split, or was merged into another. Then the figures are of the version
before, and ``nearest`` is a latent of this one. R is empty where it was not measured, and the decoder alone decided."""

Ids = Sequence[str]


def minted(name: str, version: int, index: int) -> str:
    """The id of a latent that first appears in a version of a line, at an index."""
    return f"{name}.{version}.{index}"


def first_version(name: str, version: int, d_sae: int) -> pa.Table:
    """The rows of a version without one before it: all its latents are born."""
    rows = [
        {"stable_id": minted(name, version, index), "version": version, "index": index, "class": "born", "parents": []}
        for index in range(d_sae)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def next_version(found: Matching, ids: Ids, name: str, version: int) -> pa.Table:
    """The rows of B: its latents in their order, then those of A that ended.

    Args:
        found: how A's and B's latents belong together.
        ids: of A's latents, in their order.
        name: of the line.
        version: of B.
    """
    parents = [[ids[parent] for parent in found.b.relatives.get(index, ())] for index in range(len(found.b.kind))]
    own = [
        ids[partner] if partner >= 0 else minted(name, version, index)
        for index, partner in enumerate(found.b.partner.tolist())
    ]
    ended = np.flatnonzero(found.a.partner < 0)
    every = np.arange(len(own))
    there = _rows(found.b, every, own, version, pa.array(every, pa.int32()), parents)
    gone = _rows(
        found.a,
        ended,
        [ids[latent] for latent in ended.tolist()],
        version,
        pa.nulls(len(ended), pa.int32()),
        [[] for _ in ended],
    )
    return pa.concat_tables([there, gone])


def ids_of(table: pa.Table, version: int) -> list[str]:
    """The ids of a version's latents, in their order."""
    rows = [row for row in table.select(["stable_id", "version", "index"]).to_pylist() if row["version"] == version]
    there = sorted((row["index"], row["stable_id"]) for row in rows if row["index"] is not None)
    return [stable_id for _, stable_id in there]


def _rows(
    fates: Fates, latents: np.ndarray, ids: Ids, version: int, index: pa.Array, parents: Sequence[Sequence[str]]
) -> pa.Table:
    evidence, partner = fates.evidence, fates.partner[latents]
    columns = {
        "stable_id": pa.array(ids, pa.string()),
        "version": pa.array(np.full(len(latents), version), pa.int32()),
        "index": index,
        "class": pa.array(fates.kind[latents].tolist(), pa.string()),
        "C_d": pa.array(evidence.C_d[latents], pa.float32()),
        "C_e": pa.array(evidence.C_e[latents], pa.float32()),
        "R": pa.array(evidence.R[latents], pa.float32(), mask=~evidence.measured[latents]),
        "partner": pa.array(partner, pa.int32(), mask=partner < 0),
        "nearest": pa.array(fates.nearest[latents], pa.int32()),
        "n_active": pa.array(fates.n_active[latents], pa.int64()),
        "parents": pa.array(parents, SCHEMA.field("parents").type),
    }
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)
