"""Activations through a finished SAE, to sparse codes in Parquet: ``saemill encode``.

The result begins with ``codes.json``, which says what it is of, and ends with ``manifest.json``. A file holds whole pieces
of the activations' shards; it is written whole or not at all, and one that is there is not made again.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tasks.activations.loader.prefetch import ahead, read_ahead
from tasks.activations.manifest import require_hooks
from tasks.activations.multi_hook import AnySplit, open_split
from tasks.activations.schema import Array, row_bytes
from tasks.activations.writer import Rows
from tasks.encode.chunks import encoded
from tasks.encode.codes import CSRCodes
from tasks.encode.files import FORMAT_VERSION, CodesFile, SplitName, files_of, to_parquet, to_table
from tasks.encode.pieces import Piece
from tasks.errors import ArtifactError, InputError
from tasks.progress import Listener, Progress
from tasks.sae import SparseAutoencoder, load
from tasks.sae.checkpoint import CONFIG, WEIGHTS
from tasks.storage.artifacts import MANIFEST, read_json, require_manifest, write_manifest
from tasks.storage.base import ObjectStore
from tasks.storage.claims import claim, sweep
from tasks.storage.faults import FAULTS, reason_of
from tasks.storage.objects import open_store, require

REQUEST = "codes.json"
# What bounds memory: a file's codes are held as numbers and encoded. With k 32 they are 16 MiB of each.
FILE_ROWS = 65_536
_AHEAD_BYTES = 128 * 2**20
_READERS = 2


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a directory of codes holds."""

    uri: str
    hooks: tuple[str, ...]
    """Whose activations were encoded, side by side."""
    files: int
    rows: int
    l0: float
    """Active latents of a row, on average."""
    size: int
    """Bytes of the files."""
    earlier: bool
    """Whether it was finished before, and nothing was done now."""


def encode_activations(
    sae_uri: str,
    activations_uri: str,
    out: str,
    listener: Listener,
    *,
    hook: str | None = None,
    split: SplitName | None = None,
    file_rows: int = FILE_ROWS,
) -> Encoded:
    """Write the codes of all rows to the folder or ``s3://`` prefix ``out``; goes on where one was stopped.

    Args:
        sae_uri: a finished SAE, trained or imported.
        activations_uri: a finished activations directory.
        out: where to; it must be empty or hold unfinished or finished codes of the same.
        listener: is told how far it is.
        hook: whose rows; may be left out where the SAE's own hook is there, or one hook only.
        split: train or eval; None: both.
        file_rows: how many rows a file has at most, where a piece has no more.

    Raises:
        InputError: one of the inputs is not what it should be, they do not fit, or ``out`` holds something else.
        ArtifactError: the SAE or the activations are damaged.
    """
    hooks = _chosen_hooks(sae_uri, activations_uri, hook)
    splits: tuple[SplitName, ...] = ("train", "eval") if split is None else (split,)
    sources = {name: open_split(activations_uri, hooks, name) for name in splits}
    sae = load(sae_uri, "cuda" if torch.cuda.is_available() else "cpu")
    _require_fit(sae, sources[splits[0]], activations_uri)
    files = [file for name in splits for file in files_of(sources[name], name, file_rows)]
    if not files:
        raise InputError(f"{activations_uri} has no {' or '.join(splits)} rows to encode.")
    request = _request(sae_uri, activations_uri, hooks, splits, file_rows)
    store = open_store(out)
    there = claim(store, REQUEST, request, [MANIFEST, *(file.key for file in files)], "encoding")
    sweep(store)
    earlier = MANIFEST in there
    if not earlier:
        _Job(sae, sources, store, files, there, listener).run(request)
    return _told(store.uri, earlier)


def _chosen_hooks(sae_uri: str, activations_uri: str, hook: str | None) -> tuple[str, ...]:
    """The hook that is asked for, else the SAE's own, else the only one there is."""
    settings, manifest = _sae_settings(sae_uri), require_manifest(activations_uri)
    if manifest.get("stage") != "activations":
        raise InputError(
            f"{activations_uri} is a directory of stage {manifest.get('stage')}; the URI of an activations directory was "
            "expected."
        )
    there = sorted(require_hooks(activations_uri, manifest))
    own = (hook,) if hook else tuple(settings.get("hooks") or [settings.get("hook")])
    if set(own) <= set(there):
        return own
    if hook is None and len(there) == 1:
        return (there[0],)
    if hook is not None:
        raise InputError(f"--hook is {hook!r}, which {activations_uri} lacks; it has {', '.join(there)}.")
    raise InputError(
        f"The SAE is of {', '.join(map(str, own))}, which {activations_uri} lacks; choose one with --hook: "
        f"{', '.join(there)}."
    )


def _sae_settings(uri: str) -> dict[str, Any]:
    """What ``config.json`` of an SAE directory says."""
    settings = read_json(uri, CONFIG)
    if settings is None or "arch" not in settings:
        raise InputError(f"{uri} holds no SAE ({CONFIG} and {WEIGHTS}); give a directory as saemill train prints it.")
    return settings


def _require_fit(sae: SparseAutoencoder, source: AnySplit, activations_uri: str) -> None:
    if sae.d_in != source.d_in:
        raise InputError(
            f"The SAE takes rows of {sae.d_in} features, but those of {activations_uri} have {source.d_in}; encode "
            "activations of the hook and model that it was trained on."
        )


def _request(
    sae_uri: str, activations_uri: str, hooks: tuple[str, ...], splits: tuple[SplitName, ...], file_rows: int
) -> dict[str, Any]:
    sae, activations = open_store(sae_uri), open_store(activations_uri)
    return {
        "format_version": FORMAT_VERSION,
        "sae": sae.uri.rpartition("/")[2],
        "sae_sha256": hashlib.sha256(require(sae, WEIGHTS)).hexdigest(),
        "activations": activations.uri.rpartition("/")[2],
        "activations_sha256": hashlib.sha256(require(activations, MANIFEST)).hexdigest(),
        "hooks": list(hooks),
        "splits": list(splits),
        "file_rows": file_rows,
    }


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows [start, stop) of one shard, which are read at once."""

    split: SplitName
    shard: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Job:
    sae: SparseAutoencoder
    sources: Mapping[SplitName, AnySplit]
    store: ObjectStore
    files: list[CodesFile]
    there: Mapping[str, int]
    listener: Listener

    def run(self, request: Mapping[str, Any]) -> None:
        """Make what is missing, and then the manifest: reading, encoding and writing go on beside each other."""
        total, done, made, began = sum(file.rows for file in self.files), 0, 0, time.monotonic()
        missing = [file for file in self.files if file.key not in self.there]
        facts = {
            "sae": str(request["sae"]),
            "activations": str(request["activations"]),
            "hooks": ", ".join(request["hooks"]),
        }
        tables = ahead(self._tables(missing, facts), 1)
        entries = []
        for file in self.files:
            if file.key in self.there:
                entries.append(_entry(self.store, file))
            else:
                data, active = to_parquet(table := next(tables)), int(table.schema.metadata[b"active"])
                self.store.put(file.key, data)
                entries.append(_describe(file, data, active))
                made += file.rows
            done += file.rows
            rate = made / (time.monotonic() - began) if made else None
            self.listener(Progress("encode", done, total, "rows", rate))
        rows = sum(entry["rows"] for entry in entries)
        write_manifest(
            self.store.uri, {"stage": "codes", **request, "d_sae": self.sae.d_sae, "rows": rows, "files": entries}
        )

    def _tables(self, files: list[CodesFile], facts: Mapping[str, str]) -> Iterator[pa.Table]:
        """The codes of each file, as a table."""
        found = read_ahead(self._read, self._blocks(files), self._size, _AHEAD_BYTES, _READERS)
        for file in files:
            places: list[Rows] = []
            codes: list[CSRCodes] = []
            for piece in file.pieces:
                rows = islice(found, len(self._cuts(file, piece)))
                blocks = _activations(rows, places)
                codes += [chunk.codes for chunk in encoded(self.sae, blocks, self.sources[file.split].dtype)]
            yield to_table(places, CSRCodes.joined(codes), {**facts, "split": file.split})

    def _blocks(self, files: list[CodesFile]) -> Iterator[_Block]:
        """All rows of the files in order, as they are read."""
        for file in files:
            for piece in file.pieces:
                for start, stop in self._cuts(file, piece):
                    yield _Block(file.split, piece.shard, start, stop)

    def _cuts(self, file: CodesFile, piece: Piece) -> list[tuple[int, int]]:
        return piece.at_row_groups(self.sources[file.split].shards[piece.shard]["row_groups"])

    def _read(self, block: _Block) -> Rows:
        return self.sources[block.split].shard(block.shard, block.start, block.stop)

    def _size(self, block: _Block) -> int:
        source = self.sources[block.split]
        return (block.stop - block.start) * row_bytes(source.d_in, source.dtype)


def _activations(blocks: Iterator[Rows], places: list[Rows]) -> Iterator[Array]:
    """The activations of rows that are read; what else is known of these rows goes to ``places``."""
    for rows in blocks:
        places.append(replace(rows, activation=_NOTHING))  # with the activations, those of a whole file would be held
        yield rows.activation


_NOTHING = np.empty((0, 0), np.uint8)


def _entry(store: ObjectStore, file: CodesFile) -> dict[str, Any]:
    """What the manifest says of a file that an earlier call wrote.

    Raises:
        ArtifactError: it is damaged, or of other rows.
    """
    where = f"{store.uri}/{file.key}"
    try:
        found = pq.ParquetFile(store.open(file.key))
        rows, active = found.metadata.num_rows, int(found.schema_arrow.metadata[b"active"])
    except FAULTS as error:
        raise ArtifactError(f"{where} is damaged: {reason_of(error)}. Delete it and give the same command again.") from None
    if rows != file.rows:
        raise ArtifactError(f"{where} has {rows} rows, not {file.rows}. Delete it and give the same command again.")
    return _describe(file, store.get(file.key), active)


def _describe(file: CodesFile, data: bytes | memoryview, active: int) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    return {"key": file.key, "rows": file.rows, "active": active, "size": len(data), "sha256": sha256}


def _told(uri: str, earlier: bool) -> Encoded:
    manifest = require_manifest(uri)
    files = manifest["files"]
    rows, active, size = (sum(entry[name] for entry in files) for name in ("rows", "active", "size"))
    return Encoded(uri, tuple(manifest["hooks"]), len(files), rows, active / rows, size, earlier)
