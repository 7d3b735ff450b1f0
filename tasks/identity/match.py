"""Match two versions of an SAE: tables, figures, and on demand a permuted copy of the second."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.identity.carry import Carried, carried, read_notes
from tasks.identity.comparison import LEAST_ROWS
from tasks.identity.matching import Matching, matching, reordered
from tasks.identity.permute import claim_permuted, groups, kept, order_like, permute_on_save, weights_sha256
from tasks.identity.request import MatchRequest
from tasks.identity.sources import Pair, compared, first_rows, open_pair
from tasks.identity.stored import TABLE, Line, to_parquet
from tasks.identity.table import first_version, ids_of, next_version
from tasks.progress import Listener
from tasks.sae import load


@dataclass(frozen=True, slots=True)
class Matched:
    """What a match comes to."""

    version: pa.Table
    """The identity table's rows of B's version."""
    summary: Mapping[str, Any]
    """Figures as ``saemill match --json`` prints them."""
    sae_sha256: str
    """Of the weights of the SAE whose indices the table holds: B, or its permuted copy."""
    files: Mapping[str, bytes]
    """The tables, by name: that of all versions, and what was carried over."""


@dataclass(frozen=True, slots=True)
class MatchInputs:
    """All that a match reads, found fit before anything is written to its place."""

    request: MatchRequest
    line: Line | None
    """The ids of A's latents; None: they are minted."""
    pair: Pair
    ceiling: Pair | None
    notes: pa.Table | None
    """A user's table of latents."""


def open_inputs(request: MatchRequest, line: Line | None) -> MatchInputs:
    """Open what a match reads, and claim the place of the permuted copy.

    Raises:
        InputError: something that was given is not there, or does not fit.
        ArtifactError: something is damaged.
    """
    notes = None if request.carry is None else read_notes(request.carry)
    pair = _open(request, request.b)
    ceiling = None if request.ceiling is None else _open(request, request.ceiling)
    if request.permute_out is not None:
        claim_permuted(request.b, request.a, request.permute_out)
    return MatchInputs(request, line, pair, ceiling, notes)


def match(inputs: MatchInputs, listener: Listener) -> Matched:
    """Compare the latents of two SAEs, give B's their ids, and write a permuted copy of B where one is asked for.

    Raises:
        InputError: there is no memory to encode a single row.
        ArtifactError: something is damaged.
    """
    request, line, pair = inputs.request, inputs.line, inputs.pair
    found = matching(compared(pair, request.rows, listener))
    most = None if inputs.ceiling is None else matching(compared(inputs.ceiling, request.rows, listener))
    permuted, sha256 = None, weights_sha256(request.b)
    if request.permute_out is not None:
        found, permuted, sha256 = _permuted(request, request.permute_out, pair, found)
    before = line.table if line is not None else first_version(request.name, request.version_a, pair.a.d_sae)
    version = next_version(found, ids_of(before, request.version_a), request.name, request.version)
    files = {TABLE: to_parquet(pa.concat_tables([before, version]))}
    taken = None if inputs.notes is None else carried(inputs.notes, version)
    if taken is not None and request.carry is not None:
        files |= taken.files(request.carry)
    summary = _summary(request, found, most) | {"permuted": permuted, "carried": _told(taken)}
    return Matched(version, summary, sha256, files)


def _open(request: MatchRequest, other: str) -> Pair:
    return open_pair(request.a, other, request.activations, request.roles, request.split)


def _permuted(request: MatchRequest, out: str, pair: Pair, found: Matching) -> tuple[Matching, dict[str, Any], str]:
    """What was found, of the copy whose latents stand at A's indices; what is told of it; and the hash of its weights."""
    order = order_like(found.b.partner, groups(pair.b))
    stored = permute_on_save(request.b, request.a, order, out)
    moved = reordered(found, stored.order)
    after = load(stored.uri, pair.b.W_enc.device)
    matched = moved.b.partner >= 0
    placed = int(np.count_nonzero(moved.b.partner[matched] == np.flatnonzero(matched)))
    told = {
        "uri": stored.uri,
        "at_their_places": placed,
        "elsewhere": int(np.count_nonzero(matched)) - placed,
        **asdict(kept(pair.b, after, stored.order, first_rows(pair))),
    }
    return moved, told, stored.sha256


def _summary(request: MatchRequest, found: Matching, ceiling: Matching | None) -> dict[str, Any]:
    return {
        **found.shares,
        "counts": found.counts,
        "rows": found.rows,
        "row_split": request.split,
        "cosine": found.cosine,
        "null": found.null,
        "ceiling": None if ceiling is None else {**ceiling.shares, "cosine": ceiling.cosine, "sae": request.ceiling},
        "silent": {side: int((fates.n_active == 0).sum()) for side, fates in (("a", found.a), ("b", found.b))},
        "by_decoder_alone": {
            side: int((~fates.evidence.measured).sum()) for side, fates in (("a", found.a), ("b", found.b))
        },
        "least_rows": LEAST_ROWS,
        "name": request.name,
        "versions": [request.version_a, request.version],
        "a": request.a,
        "b": request.b,
    }


def _told(taken: Carried | None) -> dict[str, int] | None:
    if taken is None:
        return None
    return {"kept": taken.kept.num_rows, "recheck": taken.recheck, "dropped": taken.dropped.num_rows}
