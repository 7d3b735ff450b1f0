"""SAEs that are to be matched, and their codes of the same stored rows."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from tasks.activations.manifest import require_hooks
from tasks.activations.multi_hook import AnySplit, even_scale, open_split
from tasks.activations.schema import Array
from tasks.encode.chunks import encoded
from tasks.encode.codes import CSRCodes
from tasks.encode.files import SplitName
from tasks.encode.moving import on_device
from tasks.encode.pieces import cut
from tasks.errors import InputError
from tasks.hook_roles import HookRoles, require_known, roles_among
from tasks.identity.activity import Activity
from tasks.identity.comparison import Comparison, Side
from tasks.identity.directions import unit_directions
from tasks.progress import Listener, Progress
from tasks.sae import SparseAutoencoder, load
from tasks.sae.checkpoint import CONFIG
from tasks.storage.artifacts import read_json, require_manifest

logger = logging.getLogger(__name__)

ROWS = 200_000
"""Held-out rows over which codes are compared, where there are as many."""
_FIRST_ROWS = 1_024
# 16 bytes an entry for each SAE: 1 GiB. 200,000 rows of 32 latents are 6.4 million.
_MOST_ENTRIES = 2**25
# Products of codes on all rows take some ns each: minutes. 200,000 rows of 32 latents by 32 are .2 billion.
_MOST_PRODUCTS = 2e10


@dataclass(frozen=True, slots=True)
class Pair:
    """Two SAEs of the same hooks, and activations for both."""

    a: SparseAutoencoder
    b: SparseAutoencoder
    roles: HookRoles
    activations: str
    split: SplitName

    @property
    def source(self) -> AnySplit:
        """The rows that both encode."""
        return open_split(self.activations, self.roles.inputs, self.split)


def open_pair(a: str, b: str, activations: str, roles: HookRoles | None, split: SplitName) -> Pair:
    """Two SAEs by their URIs, whose widths and architectures may differ.

    Args:
        a: an SAE directory, of an SAE that was trained or imported.
        b: another one.
        activations: a finished activations directory.
        roles: the hooks that both read and rebuild; None: as each says.
        split: which rows are to be compared.

    Raises:
        InputError: they are of different hooks or sizes of activations, or the activations are of others or lack rows.
        ArtifactError: something is unfinished or damaged.
    """
    there = require_hooks(activations, require_manifest(activations))
    saes = [load(uri, "cuda" if torch.cuda.is_available() else "cpu") for uri in (a, b)]
    of_a, of_b = (_roles(uri, activations, there, roles) for uri in (a, b))
    if of_a != of_b:
        raise InputError(
            f"{a} is of {_told(of_a)} and {b} of {_told(of_b)}: latents of different hooks are not compared. Give two SAEs "
            "of the same."
        )
    found = Pair(saes[0], saes[1], of_a, activations, split)
    sizes = [(sae.d_in, sae.d_out) for sae in saes]
    widths = tuple(sum(there[hook]["d_in"] for hook in hooks) for hooks in (of_a.inputs, of_a.outputs))
    for uri, size in zip((a, b), sizes, strict=True):
        if size != widths:
            raise InputError(
                f"{uri} takes rows of {size[0]} features and rebuilds {size[1]}, but {_told(of_a)} in {activations} has "
                f"{widths[0]} and {widths[1]}. Give activations of the hook that it was trained on."
            )
    if not found.source.rows:
        raise InputError(f"{activations} has no {split} rows to compare latents on; choose others with --split.")
    return found


def _roles(uri: str, activations: str, there: Mapping[str, Any], given: HookRoles | None) -> HookRoles:
    if given is not None:
        return require_known(given, there, activations)
    return roles_among(there, read_json(uri, CONFIG) or {}, uri, activations)


def compared(pair: Pair, rows: int, listener: Listener) -> Comparison:
    """Both SAEs' directions, and their codes of the first rows: of ``rows``, or of fewer where codes are dense.

    Raises:
        InputError: there is no memory to encode a single row.
    """
    scale = None
    if len(pair.roles.outputs) > 1 and pair.roles.kind == "crosscoder":
        scale = even_scale(open_split(pair.activations, pair.roles.inputs, "train"))
    codes = _codes(pair, rows, listener)
    sides = [
        Side(unit_directions(sae, scale), Activity.of(each, sae.d_sae))
        for sae, each in zip((pair.a, pair.b), codes, strict=True)
    ]
    return Comparison(sides[0], sides[1])


def first_rows(pair: Pair) -> Float32[Tensor, "n d_in"]:
    """Some rows as raw activations, on the device of the SAEs."""
    rows = next(_blocks(pair.source, _FIRST_ROWS))
    return on_device(rows, pair.source.dtype, pair.b.W_enc.device)


def _codes(pair: Pair, rows: int, listener: Listener) -> tuple[CSRCodes, CSRCodes]:
    source = pair.source
    first = [_encoded(pair.a, source, min(rows, _FIRST_ROWS)), _encoded(pair.b, source, min(rows, _FIRST_ROWS))]
    rows = _affordable(min(rows, source.rows), first[0], first[1])
    done, began, found = 0, time.monotonic(), list[CSRCodes]()
    for sae in (pair.a, pair.b):
        parts = []
        for chunk in encoded(sae, _blocks(source, rows), source.dtype):
            parts.append(chunk.codes)
            done += len(chunk.codes)
            listener(Progress("match", done, 2 * rows, "rows", done / max(time.monotonic() - began, 1e-9)))
        found.append(CSRCodes.joined(parts))
    return found[0], found[1]


def _encoded(sae: SparseAutoencoder, source: AnySplit, rows: int) -> CSRCodes:
    return CSRCodes.joined([chunk.codes for chunk in encoded(sae, _blocks(source, rows), source.dtype)])


def _blocks(source: AnySplit, rows: int) -> Iterator[Array]:
    for piece in cut(source, rows):
        for start, stop in piece.at_row_groups(source.shards[piece.shard]["row_groups"]):
            yield source.shard(piece.shard, start, stop).activation


def _affordable(rows: int, a: CSRCodes, b: CSRCodes) -> int:
    """So many rows, or as many as memory and patience allow of codes that are not sparse."""
    entries, products = max(a.counts.mean(), b.counts.mean()), float(np.mean(a.counts * b.counts))
    most = int(min(_MOST_ENTRIES / max(1, entries), _MOST_PRODUCTS / max(1, products)))
    if rows > max(most, _FIRST_ROWS):
        logger.warning("codes of %.0f latents a row are not sparse; comparing %d of %d rows", entries, most, rows)
    return min(rows, max(most, _FIRST_ROWS))


def _told(roles: HookRoles) -> str:
    inputs, outputs = ", ".join(roles.inputs), ", ".join(roles.outputs)
    return inputs if inputs == outputs else f"{inputs} to {outputs}"
