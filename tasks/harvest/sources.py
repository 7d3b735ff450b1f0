"""Activations that the user brings: .npy, .safetensors or Parquet, opened for reading by ranges of rows."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tasks.activations.manifest import require_hooks
from tasks.errors import ArtifactError, InputError
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.copies import copy_of, header_of
from tasks.harvest.matrices import Matrix, open_npy, open_safetensors
from tasks.harvest.named import COMMITS
from tasks.harvest.parquet_source import ParquetSource
from tasks.harvest.source import Float32s, Source
from tasks.storage.artifacts import read_manifest, shards_uri
from tasks.storage.foreign import reading
from tasks.storage.hashed import content_identity
from tasks.storage.listing import exists, find
from tasks.storage.objects import checked_path, open_store
from tasks.storage.paths import shown

__all__ = ["Float32s", "Source", "open_source", "source_identity", "source_shape"]

_MATRICES = (".npy", ".safetensors")
_KNOWN = (*_MATRICES, ".parquet")


def open_source(config: ActivationsConfig) -> Source:
    """Open ``activations.source``.

    Raises:
        InputError: there is no such file, it is of no known kind, or what it holds is no matrix of activations.
    """
    return _opened(config, copy_of)


def source_shape(config: ActivationsConfig) -> tuple[int, int]:
    """Rows and width of ``activations.source``; of a matrix on S3 the header alone is fetched.

    Raises:
        InputError: as ``open_source``.
    """
    source = _opened(config, header_of)
    return source.n_rows, source.d_in


def source_identity(config: ActivationsConfig) -> str:
    """What the source holds, wherever it lies: hashes of its files.

    Raises:
        InputError: there is no such file, or it may not be read.
    """
    files = _files(config)
    held = [content_identity(file, "activations.source") for file in files]
    if config.labels is not None and Path(files[0]).suffix in _MATRICES:
        held.append(content_identity(checked_path(config.labels), "activations.labels"))
    return "+".join(held)


def _opened(config: ActivationsConfig, here: Callable[[str], AbstractContextManager[str]]) -> Source:
    files = _files(config)
    suffix = Path(files[0]).suffix
    if suffix not in _MATRICES:
        return ParquetSource(files, config)
    with here(files[0]) as path:
        if suffix == ".npy":
            return _with_labels(config, open_npy(path, files[0]))
        return _with_labels(config, open_safetensors(path, config.tensor, files[0]))


def _files(config: ActivationsConfig) -> list[str]:
    """The file itself, or a folder's Parquet files by name; of an activations directory, its one hook's train and eval."""
    source = config.source or ""
    manifest = None if Path(source).suffix in _KNOWN or not exists(source) else _own_manifest(source)
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


def _own_manifest(source: str) -> dict[str, Any] | None:
    """The manifest; None also where a file of that name is somebody else's: beside Parquet files, without commit records."""
    try:
        return read_manifest(source)
    except ArtifactError:
        if exists(f"{source.rstrip('/')}/{COMMITS}") or not find(source, (".parquet",)):
            raise
        return None


def _listed(source: str, manifest: dict[str, Any]) -> list[str]:
    hooks = require_hooks(source, manifest)
    shards = shards_uri(open_store(source).uri, manifest)
    if len(hooks) > 1:
        raise InputError(
            f"activations.source {source!r} holds the hooks {', '.join(hooks)}; name one hook's folder in {shards}."
        )
    (hook,) = hooks.values()
    # Once each: where no rows were held out, the training rows are listed as eval too.
    keys = dict.fromkeys(shard["key"] for split in hook["splits"].values() for shard in split["shards"])
    return [f"{shards}/{key}" for key in keys]


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
