"""How much text a corpus holds, by the sizes of its files; of Parquet by the footers, so that no text is read."""

import os
from pathlib import Path

from tasks.storage.foreign import open_parquet, reading
from tasks.storage.objects import object_at
from tasks.text.config import TextConfig
from tasks.text.files import CorpusFile, find_files, looks_like_files

PACKED = {".parquet": 2, ".gz": 3, ".zst": 3}
"""About how many times as long the text of such files is, where nothing better is known."""
_FOOTERS_READ = 64
"""Of more files, all but these are taken to be packed as tightly as they are."""


def text_bytes(config: TextConfig) -> int | None:
    """About how many bytes of UTF-8 a corpus has; None where that is not known, as of a dataset on the hub.

    Raises:
        InputError: there is no such corpus, or a footer cannot be read.
    """
    if config.source is None or not looks_like_files(config.source):
        return None
    files, column = find_files(config.source), config.chat_column or config.column
    sizes = [_size(file) for file in files]
    parquet = [i for i, file in enumerate(files) if file.kind == ".parquet"]
    looked = parquet[:: max(1, len(parquet) // _FOOTERS_READ)][:_FOOTERS_READ]
    unpacked = sum(_column_bytes(files[i], column) for i in looked)
    tightness = unpacked / max(1, sum(sizes[i] for i in looked)) if looked else 0.0
    plain = sum(sizes[i] * PACKED.get(Path(file.uri).suffix, 1) for i, file in enumerate(files) if file.kind != ".parquet")
    return round(plain + tightness * sum(sizes[i] for i in parquet))


def _size(file: CorpusFile) -> int:
    store = object_at(file.uri)
    local = store.path()
    if local is not None:
        return os.path.getsize(local)
    info = store.head("")
    return 0 if info is None else info.size


def _column_bytes(file: CorpusFile, column: str) -> int:
    """Of a column, as long as it is before compression."""
    with reading(f"text.source {file.uri}", "Parquet"):
        metadata = open_parquet(file.uri).metadata
    found = 0
    for group in range(metadata.num_row_groups):
        for i in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(i)
            found += chunk.total_uncompressed_size if chunk.path_in_schema.split(".")[0] == column else 0
    return found
