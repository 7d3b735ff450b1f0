"""Activations written once more, in a format that other tools read: ``saemill export-activations``.

An export begins with ``export.json``, which says what it is of, and ends with ``manifest.json``. Files are cut by number
of rows, each is written whole or not at all, and one that is there is not written again.
"""

import hashlib
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from tasks.activations.disk_space import free_bytes
from tasks.activations.manifest import require_hooks
from tasks.activations.reader import Split
from tasks.activations.writer import Rows
from tasks.errors import InputError
from tasks.harvest.formats import ExportFormat, FormatName, open_format
from tasks.harvest.named import open_lake
from tasks.progress import Listener, Progress
from tasks.storage.artifacts import MANIFEST, require_manifest, to_json, write_manifest
from tasks.storage.base import ObjectStore
from tasks.storage.claims import claim, sweep
from tasks.storage.objects import open_store

SplitName = Literal["train", "eval"]

# Also what bounds memory: a file's rows are held stored, converted and encoded. Of 576 x bfloat16 to safetensors, 600,000
# rows took 0.62 GiB at most, mapped pages of the shards and libraries included.
FILE_BYTES = 64 * 2**20
# SAELens' own default of context_size.
CONTEXT = 128
REQUEST = "export.json"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export holds."""

    uri: str
    format: FormatName
    hook: str
    split: SplitName
    files: int
    rows: int
    left_out: int
    """Rows at the end that did not fill a row of the hf dataset."""
    size: int
    """Bytes of the files."""
    earlier: bool
    """Whether it was finished before, and nothing was done now."""


@dataclass(frozen=True, slots=True)
class _ExportFile:
    key: str
    start: int
    stop: int


def export_activations(
    uri: str,
    out: str,
    name: FormatName,
    listener: Listener,
    *,
    hook: str | None = None,
    split: SplitName = "train",
    context: int = CONTEXT,
    file_bytes: int = FILE_BYTES,
) -> Exported:
    """Write one hook's rows, in stored order, to the folder or ``s3://`` prefix ``out``; goes on where one was stopped.

    Args:
        uri: a finished activations directory.
        out: where to; it must be empty or hold an unfinished or finished export of the same.
        name: list (Parquet with a list column), safetensors (sharded), or hf (a saved Hugging Face dataset).
        listener: is told how far it is.
        hook: may be left out where there is one only.
        split: train or eval.
        context: activations in a row of the hf dataset; SAELens' ``context_size``.
        file_bytes: about how large a file may become.

    Raises:
        InputError: ``uri`` is no activations directory or lacks the hook, or ``out`` holds something else or has no room.
        ArtifactError: the activations are unfinished or damaged.
    """
    lake = open_lake(uri)
    hook = _chosen(lake.home.uri, hook)
    source = Split(lake.home.uri, hook, split)
    form = open_format(name, hook, source.d_in, source.dtype, context)
    rows = source.rows // form.multiple * form.multiple
    if not rows:
        raise InputError(_too_few(source, split, form.multiple))
    store = open_store(out)
    files = _cut(form, split, rows, file_bytes)
    request = {
        "source": PurePosixPath(lake.home.uri).name,
        "source_sha256": hashlib.sha256(lake.manifest or b"").hexdigest(),
        "hook": hook,
        "split": split,
        "format": name,
        "context": form.multiple,
        "rows": rows,
        "file_rows": files[0].stop,
    }
    there = claim(store, REQUEST, request, [MANIFEST, *(file.key for file in files), *form.beside([], "")], "export")
    sweep(store)
    earlier = MANIFEST in there
    if not earlier:
        _require_room(store, rows * form.row_bytes - sum(there.get(file.key, 0) for file in files))
        _write(source, form, store, files, there, request, listener)
    size = sum(entry["size"] for entry in require_manifest(store.uri)["files"])
    return Exported(store.uri, name, hook, split, len(files), rows, source.rows - rows, size, earlier)


def _chosen(uri: str, hook: str | None) -> str:
    manifest = require_manifest(uri)
    if manifest.get("stage") != "activations":
        raise InputError(
            f"{uri} is a directory of stage {manifest.get('stage')}; the URI of an activations directory was expected."
        )
    hooks = sorted(require_hooks(uri, manifest))
    if hook is None and len(hooks) == 1:
        return str(hooks[0])
    if hook is None:
        raise InputError(f"{uri} holds {len(hooks)} hooks; choose one with --hook: {', '.join(hooks)}.")
    if hook not in hooks:
        raise InputError(f"--hook is {hook!r}, which {uri} lacks; it has {', '.join(hooks)}.")
    return hook


def _too_few(source: Split, split: str, least: int) -> str:
    if not source.rows:
        return f"{source.uri} has no {split} rows to export."
    return f"{source.uri} has {source.rows} {split} rows, fewer than --context {least} wants in one; lower it."


def _cut(form: ExportFormat, split: str, rows: int, file_bytes: int) -> list[_ExportFile]:
    """Files of equally many rows, but for the last."""
    each = max(1, file_bytes // (form.row_bytes * form.multiple)) * form.multiple
    count = -(-rows // each)
    return [_ExportFile(form.key(split, i, count), i * each, min((i + 1) * each, rows)) for i in range(count)]


def _require_room(store: ObjectStore, needed: int) -> None:
    free = free_bytes(store.uri)
    if free is not None and needed > free:
        raise InputError(
            f"The export takes {needed:,} bytes, but only {free:,} are free at {store.uri}. Make room there, or name "
            "another --out."
        )


def _write(
    source: Split,
    form: ExportFormat,
    store: ObjectStore,
    files: list[_ExportFile],
    there: Container[str],
    request: dict[str, Any],
    listener: Listener,
) -> None:
    ends = np.cumsum([shard["rows"] for shard in source.shards], dtype=np.int64)
    entries, began, written = [], time.monotonic(), 0
    for file in files:
        if file.key in there:
            data: memoryview | bytes = store.get(file.key)
        else:
            data = form.encode(_rows(source, ends, file))
            store.put(file.key, data)
            written += file.stop - file.start
        sha256 = hashlib.sha256(data).hexdigest()
        entries.append({"key": file.key, "rows": file.stop - file.start, "size": len(data), "sha256": sha256})
        rate = written / (time.monotonic() - began) if written else None
        listener(Progress("export", file.stop, request["rows"], "rows", rate))
    fingerprint = hashlib.sha256(to_json(request)).hexdigest()
    for key, data in form.beside([file.key for file in files], fingerprint).items():
        store.put(key, data)
    write_manifest(store.uri, {"stage": "export", **request, "files": entries})


def _rows(source: Split, ends: "np.ndarray[Any, np.dtype[np.int64]]", file: _ExportFile) -> Rows:
    """The rows of one file; only the row groups that hold them are read."""
    return _joined(list(_parts(source, ends, file)))


def _parts(source: Split, ends: "np.ndarray[Any, np.dtype[np.int64]]", file: _ExportFile) -> Iterator[Rows]:
    index = int(np.searchsorted(ends, file.start, "right"))
    at = file.start
    while at < file.stop:
        first = int(ends[index - 1]) if index else 0
        stop = min(file.stop, int(ends[index]))
        if at < stop:
            yield source.shard(index, at - first, stop - first)
        at, index = stop, index + 1


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return Rows(
        np.concatenate([part.activation for part in parts]),
        np.concatenate([part.token_id for part in parts]),
        np.concatenate([part.sequence for part in parts]),
        np.concatenate([part.position for part in parts]),
        None if parts[0].label is None else [label for part in parts for label in part.label or ()],
    )
