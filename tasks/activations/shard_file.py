"""Shards opened for reading, and refused by name where they are not what the manifest says.

Pages carry a CRC-32 that pyarrow compares while it reads; the footer, which has none, is held against the manifest.
That costs 0.25 s of CPU per GB where decoding takes 0.1 (0.6 GB of 576 x bfloat16 in page cache, medians of three),
so of the activations on local disk each row group is compared once per process, for as long as its file stays the same.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.activations.schema import RowFormat
from tasks.errors import ArtifactError
from tasks.storage.artifacts import MANIFEST, identity
from tasks.storage.base import ObjectStore
from tasks.storage.faults import FAULTS, reason_of


def require_own_recipe(uri: str, manifest: Mapping[str, Any]) -> str | None:
    """The hash of the recipe that made a directory, or None where its manifest states none.

    Raises:
        ArtifactError: the manifest was made for another directory.
    """
    recipe = manifest.get("recipe", {})
    found: str | None = recipe.get("hash") if isinstance(recipe, dict) else ""
    if found is not None and identity(uri) not in (uri, found):
        raise ArtifactError(
            f"{uri}/{MANIFEST} is of recipe {found}, the directory is that of {identity(uri)}. {_remedy(uri)}"
        )
    return found


class ShardFile:
    """One of the manifest's shards, open for reading by any number of threads at once.

    It holds the footer and no file descriptor, so thousands may be open; to open it for each read costs 30 us.
    """

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        """Read the footer."""
        self._store, self._key, self._size = store, key, size
        path = store.path(key)
        self._local = None if path is None else str(path)
        self.footer: Any = None
        file = self._open(check=True)
        self.footer, self.schema = file.metadata, file.schema_arrow

    def read(self, columns: list[str] | None = None, use_threads: bool = False) -> pa.Table:
        """All rows, compared with their CRCs."""
        return self._open(check=True).read(columns=columns, use_threads=use_threads)

    def read_row_groups(
        self, row_groups: list[int], columns: list[str] | None = None, use_threads: bool = False
    ) -> pa.Table:
        """The row groups as one table, compared with their CRCs."""
        return self._open(check=True).read_row_groups(row_groups, columns=columns, use_threads=use_threads)

    def read_row_group(self, row_group: int, columns: list[str], use_threads: bool = False) -> pa.Table:
        """One row group, compared with its CRCs unless this process has found the same bytes of the same file whole."""
        file = None if self._local is None else (*_version(self._local), *columns)
        bit = 1 << row_group
        whole = file is not None and bool(_found_whole.get(file, 0) & bit)
        table = self._open(check=not whole).read_row_group(row_group, columns=columns, use_threads=use_threads)
        if file is not None:
            _found_whole[file] = _found_whole.get(file, 0) | bit
        return table

    def _open(self, check: bool) -> pq.ParquetFile:
        return pq.ParquetFile(
            self._store.open(self._key, self._size),
            metadata=self.footer,
            pre_buffer=self._local is None,  # fetches neighbouring columns by one GET; of a memory map, it only costs time
            page_checksum_verification=check,
        )


def _version(path: str) -> tuple[object, ...]:
    found = os.stat(path)
    return path, found.st_ino, found.st_size, found.st_mtime_ns


# A bit for each row group of each version of a local file, by the columns read: 25 MB for 100,000 shards.
_found_whole: dict[tuple[object, ...], int] = {}


def open_shard(store: ObjectStore, shard: Mapping[str, Any], expected: RowFormat, recipe: str | None) -> ShardFile:
    """Open one of the manifest's shards; of ``expected``, the hook, width and dtype count.

    Raises:
        ArtifactError: the object is missing, damaged, another shard's, or no shard at all.
    """
    where = f"{store.uri}/{shard['key']}"
    with reading(store, shard["key"]):
        file = ShardFile(store, shard["key"], shard["size"])
    found = RowFormat.of(file.schema, where)
    groups = [file.footer.row_group(i).num_rows for i in range(file.footer.num_row_groups)]
    for what, is_there, should_be in (
        ("hook", found.hook, expected.hook),
        ("recipe", found.recipe, recipe or found.recipe),
        ("shard", found.shard, _name(shard["key"]) if found.shard else ""),
        ("rows", f"{found.d_in} x {found.dtype}", f"{expected.d_in} x {expected.dtype}"),
        ("row groups", groups, list(shard["row_groups"])),
    ):
        if is_there != should_be:
            raise ArtifactError(f"{where} has {what} {is_there}, the manifest says {should_be}. {_remedy(store.uri)}")
    return file


@contextlib.contextmanager
def reading(store: ObjectStore, key: str) -> Iterator[None]:
    """Name the object in whatever goes wrong while it is read.

    Raises:
        ArtifactError: it is missing, damaged, or cannot be read.
    """
    where = f"{store.uri}/{key}"
    try:
        yield
    except FileNotFoundError:
        raise ArtifactError(f"{where} is missing. {_remedy(store.uri)}") from None
    except FAULTS as error:
        # The system's errors have a number, and tell of the disk or the network; Arrow's have none, and tell of the bytes.
        what = "is damaged" if getattr(error, "errno", None) is None else "cannot be read"
        raise ArtifactError(f"{where} {what} ({reason_of(error)}). {_remedy(store.uri)}") from None


def _name(key: str) -> str:
    """'train-00003' of 'hook/train/00003-0123456789ab.parquet'."""
    _, split, file = key.rsplit("/", 2)
    return f"{split}-{file.partition('-')[0]}"


def _remedy(uri: str) -> str:
    return f"saemill verify {uri} names all damage, and saemill repair with its settings harvests just that again."
