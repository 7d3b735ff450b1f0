"""A tokens directory read back: its sequences, and how they are cut."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import ArtifactError
from tasks.storage.artifacts import MANIFEST
from tasks.storage.faults import FAULTS, reason_of
from tasks.storage.objects import open_store

# 1 MiB: of 3 billion tokens in sequences of 256 the hashes are 205 MB, which must not be there twice.
_HASHES_AT_A_TIME = 65_536
_SEQUENCES = "sequences.parquet"


def require_segments(uri: str, manifest: Mapping[str, Any]) -> None:
    """Refuse a tokens manifest that does not say how its sequences are cut.

    Raises:
        ArtifactError: it does not.
    """
    segments, length = manifest.get("segments"), manifest.get("context_length")
    cut = isinstance(segments, dict) and all(
        isinstance(segments.get(split), list) and all(_is_count(n) for n in segments[split]) for split in ("train", "eval")
    )
    if not cut or not _is_count(length) or not length:
        raise ArtifactError(
            f"{uri}/{MANIFEST} is damaged: it does not tell segments and context_length. Delete {uri} and run again."
        )


def read_sequences(
    tokens: str, first: int, n: int, column: Literal["token_ids", "document"] = "token_ids"
) -> npt.NDArray[np.int32]:
    """Token ids, or each token's document, [n, context_length] of sequences ``first`` to ``first + n``.

    Raises:
        ArtifactError: the directory does not hold these sequences.
    """
    with _reading(tokens):
        return _sequences(tokens, first, n, column)


def _sequences(tokens: str, first: int, n: int, column: str) -> npt.NDArray[np.int32]:
    file = pq.ParquetFile(open_store(tokens).open(_SEQUENCES))
    groups, skipped, seen = [], 0, 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if seen + rows <= first:
            skipped += rows
        elif seen < first + n:
            groups.append(group)
        seen += rows
    table = file.read_row_groups(groups, columns=[column], use_threads=False).slice(first - skipped, n)
    if len(table) != n:
        raise ArtifactError(f"{tokens} holds {seen} sequences, not {first + n}. Delete it and run again.")
    flat = pa.concat_arrays(chunk.flatten() for chunk in table[column].chunks).to_numpy()
    found: npt.NDArray[np.int32] = flat.reshape(n, -1)
    return found


def read_hashes(tokens: str) -> "np.ndarray[Any, np.dtype[np.void]]":
    """The hash of each sequence's tokens, [n_sequences] of 16 bytes.

    Raises:
        ArtifactError: the directory is of an older version, which kept none.
    """
    with _reading(tokens):
        return _hashes(tokens)


def _hashes(tokens: str) -> "np.ndarray[Any, np.dtype[np.void]]":
    file = pq.ParquetFile(open_store(tokens).open(_SEQUENCES))
    if "hash" not in file.schema_arrow.names:
        raise ArtifactError(f"{tokens} is of an older version, without hashes of its sequences. Delete it and run again.")
    found, first = np.empty(file.metadata.num_rows, "V16"), 0
    for batch in file.iter_batches(_HASHES_AT_A_TIME, columns=["hash"], use_threads=False):
        column = batch.column(0)
        values = np.frombuffer(column.buffers()[1], "V16", count=column.offset + len(column))[column.offset :]
        found[first : first + len(values)] = values
        first += len(values)
    return found


@contextlib.contextmanager
def _reading(tokens: str) -> Iterator[None]:
    try:
        yield
    except FAULTS as error:
        raise ArtifactError(
            f"{tokens}/{_SEQUENCES} is missing or damaged: {reason_of(error)}. Delete {tokens} and run again."
        ) from None


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
