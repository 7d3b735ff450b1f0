"""The two tables of a tokens directory, written in bounded memory: Parquet files in a scratch folder."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.text.pack import Ids, Split

ROW_GROUP_SEQUENCES = 1024

_IDS = pa.list_(pa.field("element", pa.int32(), nullable=False))
HASH_BYTES = 16
SEQUENCES = pa.schema(
    [
        ("sequence", pa.int64()),
        ("split", pa.string()),
        ("token_ids", _IDS),
        ("document", _IDS),
        ("hash", pa.binary(HASH_BYTES)),
    ]
)
DOCUMENTS = pa.schema(
    [
        ("document", pa.int32()),
        ("sha256", pa.string()),
        ("split", pa.string()),
        ("title", pa.string()),
        ("source", pa.string()),
        ("n_tokens", pa.int64()),
    ]
)


class SequencesWriter:
    """sequences.parquet: all train sequences, then all eval sequences, numbered through, in row groups of 1,024.

    ``hash`` is the BLAKE2b of a sequence's token ids as little-endian int32, by which equal sequences are found.

    Train sequences are written as they come; eval sequences, the smaller part, wait in a scratch file.
    Finish, then leave the context.
    """

    def __init__(self, path: Path, context_length: int) -> None:
        self._context_length = context_length
        self._parquet = pq.ParquetWriter(path, SEQUENCES, compression="zstd")
        self._spool = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  # open until __exit__
        self._waiting: list[tuple[Split, Ids, Ids]] = []
        self._n_waiting = 0
        self._n_written = 0
        self.n_sequences: dict[Split, int] = {"train": 0, "eval": 0}
        self.segments: dict[Split, list[int]] = {"train": [], "eval": []}
        """Sequences of each segment that has any."""
        self._n_ended: dict[Split, int] = {"train": 0, "eval": 0}

    def add(self, split: Split, token_ids: Ids, documents: Ids) -> None:
        """Append sequences, [n, context_length] each."""
        self.n_sequences[split] += len(token_ids)
        if split == "train":
            self._write(split, token_ids, documents)
        else:
            self._spool.write(np.stack([token_ids, documents], axis=1).astype("<i4").tobytes())

    def end_segment(self) -> None:
        """What was added since the last call is a segment of each split."""
        for split, n_sequences in self.n_sequences.items():
            n = n_sequences - self._n_ended[split]
            self.segments[split] += [n] if n else []
            self._n_ended[split] = n_sequences

    def finish(self) -> None:
        """Append the eval sequences, and what waits to be written."""
        for pairs in self._spooled():
            self._write("eval", pairs[:, 0], pairs[:, 1])
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parquet.close()
        self._spool.close()

    def _spooled(self) -> Iterator[Ids]:
        self._spool.seek(0)
        bytes_per_sequence = 2 * 4 * self._context_length
        while block := self._spool.read(ROW_GROUP_SEQUENCES * bytes_per_sequence):
            yield np.frombuffer(block, "<i4").reshape(-1, 2, self._context_length)

    def _write(self, split: Split, token_ids: Ids, documents: Ids) -> None:
        while len(token_ids):
            room = ROW_GROUP_SEQUENCES - self._n_waiting
            self._waiting.append((split, token_ids[:room], documents[:room]))
            self._n_waiting += len(token_ids[:room])
            token_ids, documents = token_ids[room:], documents[room:]
            if self._n_waiting == ROW_GROUP_SEQUENCES:
                self._flush()

    def _flush(self) -> None:
        if not self._n_waiting:
            return
        splits = [split for split, ids, _ in self._waiting for _ in range(len(ids))]
        token_ids = np.concatenate([ids for _, ids, _ in self._waiting])
        table = pa.table(
            [
                pa.array(np.arange(self._n_written, self._n_written + self._n_waiting)),
                pa.array(splits),
                _lists(token_ids),
                _lists(np.concatenate([documents for _, _, documents in self._waiting])),
                pa.array([_hash(ids) for ids in token_ids], pa.binary(HASH_BYTES)),
            ],
            SEQUENCES,
        )
        self._parquet.write_table(table, row_group_size=ROW_GROUP_SEQUENCES)
        self._n_written += self._n_waiting
        self._waiting, self._n_waiting = [], 0


class DocumentsWriter:
    """documents.parquet: a row per document, in the order in which they were read. Finish, then leave the context."""

    _BATCH = 8192

    def __init__(self, path: Path) -> None:
        self._parquet = pq.ParquetWriter(path, DOCUMENTS, compression="zstd")
        self._rows: list[tuple[int, str, Split, str, str, int]] = []

    def add(self, document: int, sha256: str, split: Split, title: str, source: str, n_tokens: int) -> None:
        """Append a document."""
        self._rows.append((document, sha256, split, title, source, n_tokens))
        if len(self._rows) == self._BATCH:
            self._flush()

    def finish(self) -> None:
        """Append what waits to be written."""
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parquet.close()

    def _flush(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * len(DOCUMENTS)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, DOCUMENTS, strict=True)]
        self._parquet.write_table(pa.table(arrays, DOCUMENTS))
        self._rows = []


def _hash(token_ids: Ids) -> bytes:
    return hashlib.blake2b(token_ids.astype("<i4").tobytes(), digest_size=HASH_BYTES).digest()


def _lists(values: Ids) -> pa.ListArray:
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()), type=_IDS)
