"""How many bytes activations will take, and whether the disk has room for them."""

import logging
from collections.abc import Mapping, Sequence

from tasks.activations.schema import Dtype, RowFormat
from tasks.errors import InputError
from tasks.storage.objects import open_store

logger = logging.getLogger(__name__)


def require_room(uri: str, tokens: int, widths: Sequence[int], dtype: Dtype) -> None:
    """Say in the log how many bytes are about to be written below ``uri``, and refuse it where they do not fit.

    Args:
        uri: a folder, which need not exist yet, or an ``s3://`` URI, whose room nobody knows.
        tokens: rows per hook that are still to be written.
        widths: ``d_in`` of each hook.
        dtype: as the rows are stored.

    Raises:
        InputError: the disk has less room than will be written.
    """
    needed, free = bytes_needed(tokens, widths, dtype), free_bytes(uri)
    if free is not None and needed > free:
        where = open_store(uri).uri
        raise InputError(
            f"The activations of {tokens:,} tokens take {_size(needed)}, but only {_size(free)} are free at {where}. "
            "Choose another storage, make room there, or harvest less (text.max_tokens, harvest.hooks, harvest.dtype)."
        )
    there = "" if free is None else f"; {_size(free)} are free there"
    logger.info("activations: %s tokens take up to %s%s", f"{tokens:,}", _size(needed), there)


def require_room_of_run(uri: str, parts: Mapping[str, int]) -> None:
    """Refuse what is about to be written below ``uri`` where it does not fit.

    Args:
        uri: a folder, which need not exist yet, or an ``s3://`` URI, whose room nobody knows.
        parts: bytes, by what they are.

    Raises:
        InputError: the disk has less room than that.
    """
    needed, free = sum(parts.values()), free_bytes(uri)
    if free is not None and needed > free:
        told = ", ".join(f"{name} {_size(n_bytes)}" for name, n_bytes in parts.items() if n_bytes)
        raise InputError(
            f"This run stores {_size(needed)} ({told}), but only {_size(free)} are free at {open_store(uri).uri}. Choose "
            "another storage, make room there, or make less (text.max_tokens, harvest.hooks, harvest.dtype, sae.d_sae)."
        )


def bytes_needed(tokens: int, widths: Sequence[int], dtype: Dtype) -> int:
    """Bytes of the rows of ``tokens`` tokens at hooks of these widths, none masked.

    Parquet's footers and page headers are left out: of 32,768 rows of 576 x bfloat16 in the default row groups they are
    6 KB beside 38 MB.
    """
    return tokens * sum(_row_bytes(width, dtype) for width in widths)


def free_bytes(uri: str) -> int | None:
    """Bytes that this user may still write below a folder, which need not exist yet; None where nobody knows, as on S3."""
    return open_store(uri).free_bytes()


def _row_bytes(width: int, dtype: Dtype) -> int:
    """Bytes of one row in all columns: the activation as it is stored, token_id, sequence and position."""
    bits: list[int] = [field.type.bit_width for field in RowFormat(width, dtype, "", "", "", "").schema()]
    return sum(bits) // 8


def _size(n_bytes: int) -> str:
    size, unit = float(n_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:,.{0 if unit == 'bytes' else 1}f} {unit}"
