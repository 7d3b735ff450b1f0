"""Activations that the user brings: .npy, .safetensors or Parquet, opened for reading by ranges of rows."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from tasks.artifacts import read_manifest, shards_uri
from tasks.errors import InputError
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.matrices import Matrix, open_npy, open_safetensors
from tasks.harvest.parquet_source import ParquetSource
from tasks.harvest.source import Float32s, Source
from tasks.store.files import content_identity
from tasks.store.foreign import reading
from tasks.store.listing import exists, find
from tasks.store.manifest import require_hooks
from tasks.store.objects import checked_path, open_store, s3_filesystem, s3_sentences, shown

__all__ = ["Float32s", "Source", "open_source", "source_identity"]

_KNOWN = (".npy", ".safetensors", ".parquet")


def open_source(config: ActivationsConfig) -> Source:
    """Open ``activations.source``.

    Raises:
        InputError: there is no such file, it is of no known kind, or what it holds is no matrix of activations.
    """
    files = _files(config)
    suffix = Path(files[0]).suffix
    if suffix == ".npy":
        return _with_labels(config, open_npy(_local(files[0])))
    if suffix == ".safetensors":
        return _with_labels(config, open_safetensors(_local(files[0]), config.tensor))
    return ParquetSource(files, config)


def source_identity(config: ActivationsConfig) -> str:
    """What the source holds, wherever it lies: hashes of its files.

    Raises:
        InputError: there is no such file.
    """
    files = _files(config)
    labels = [checked_path(config.labels)] if config.labels and Path(config.source or "").suffix in _KNOWN else []
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        return "+".join(content_identity(file) for file in [*files, *labels])
    raise InputError(f"activations.labels is {config.labels}, and there is no such file.")


def _files(config: ActivationsConfig) -> list[str]:
    """The file itself, or a folder's Parquet files by name; of an activations directory, its one hook's train and eval."""
    source = config.source or ""
    manifest = None if Path(source).suffix in _KNOWN or not exists(source) else read_manifest(source)
    if manifest is not None and (manifest.get("hooks") or manifest.get("stage") == "activations"):
        return _listed(source, manifest)
    files = find(source, (".parquet",))
    if not files:
        what = "is a folder without Parquet files" if exists(source) else "names no file or folder that is there"
        raise InputError(f"activations.source is {shown(source)}, which {what}.")
    unknown = next((file for file in files if Path(file).suffix not in _KNOWN), None)
    if unknown is not None:
        raise InputError(
            f"activations.source is {shown(unknown)}; it must be a folder of Parquet files or end in {', '.join(_KNOWN)}."
        )
    if len(files) > 1 and {Path(file).suffix for file in files} != {".parquet"}:
        raise InputError(f"activations.source is {shown(source)}, {len(files)} files; several must all be Parquet files.")
    return files


def _listed(source: str, manifest: dict[str, Any]) -> list[str]:
    hooks = require_hooks(source, manifest)
    shards = shards_uri(open_store(source).uri, manifest)
    if len(hooks) > 1:
        raise InputError(
            f"activations.source {source!r} holds the hooks {', '.join(hooks)}; name one hook's folder in {shards}."
        )
    (hook,) = hooks.values()
    return [f"{shards}/{shard['key']}" for split in hook["splits"].values() for shard in split["shards"]]


def _local(path: str) -> str:
    if not path.startswith("s3://"):
        return path
    local = Path(tempfile.mkdtemp(prefix="saemill-"), Path(path).name)
    with s3_sentences(f"get of {path}"), reading(f"activations.source {path}", "a file"):
        s3_filesystem().get_file(path, str(local))
    return str(local)


def _with_labels(config: ActivationsConfig, matrix: Matrix) -> Matrix:
    if config.labels is None:
        return matrix
    with reading(f"activations.labels {config.labels}", "text"):
        labels = Path(checked_path(config.labels)).read_text(encoding="utf-8").splitlines()
    if len(labels) != matrix.n_rows:
        raise InputError(
            f"activations.labels {config.labels} has {len(labels)} lines, the source has {matrix.n_rows} rows; "
            "one label per row was expected."
        )
    return Matrix(matrix.values, matrix.n_rows, matrix.d_in, matrix.where, labels)
