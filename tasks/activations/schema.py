"""The contract between harvest and everything after it: one Arrow schema for activations in Parquet.

Activations are ``fixed_size_binary``: Arrow has no bfloat16, and on 200k x 576 float16 rows (pyarrow 26) this column
writes 0.83 and reads 3.3 GB/s where ``FixedSizeList<half>`` writes 0.18 and reads 0.38.

An ``int8`` row is its scale, a little-endian float32, and then d_in int8; a value is scale * int8. In memory such rows are
[n, 4 + d_in] uint8; only ``to_float32``, ``from_float32`` and ``tasks.activations.tensors`` look inside.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.errors import ArtifactError

FORMAT_VERSION = 1

Dtype = Literal["bfloat16", "float16", "float32", "int8"]

DTYPES: tuple[Dtype, ...] = get_args(Dtype)

_STORED_AS: dict[str, npt.DTypeLike] = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4", "int8": "u1"}

SCALE_BYTES = 4
"""Bytes of an int8 row's scale, which stand before its numbers."""
INT8_MAX = 127

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class RowFormat:
    """What a shard's schema metadata says of its rows."""

    d_in: int
    dtype: Dtype
    hook: str
    model: str
    revision: str
    recipe: str
    """Hash of the recipe that made the rows."""
    labelled: bool = False
    shard: str = ""
    """Such as ``train-00003``: without it, two shards of equally many rows could change places unnoticed."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one activation."""
        return row_bytes(self.d_in, self.dtype)

    def schema(self) -> pa.Schema:
        """The Arrow schema, metadata included."""
        fields = [
            pa.field("activation", pa.binary(self.row_bytes), nullable=False),
            pa.field("token_id", pa.int32(), nullable=False),
            pa.field("sequence", pa.int64(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
        ]
        if self.labelled:
            fields.append(pa.field("label", pa.string(), nullable=False))
        metadata = {
            "format_version": str(FORMAT_VERSION),
            "dtype": self.dtype,
            "d_in": str(self.d_in),
            "hook": self.hook,
            "model": self.model,
            "revision": self.revision,
            "recipe": self.recipe,
            "shard": self.shard,
        }
        return pa.schema(fields, metadata=metadata)

    @classmethod
    def of(cls, schema: pa.Schema, where: str) -> "RowFormat":
        """Read the format back from a shard's schema.

        Raises:
            ArtifactError: the file is not an activations shard, or of a format this version does not know.
        """
        try:
            metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
            version = metadata.get("format_version", "none")
        except UnicodeDecodeError:
            version = "unreadable"
        if version != str(FORMAT_VERSION):
            raise ArtifactError(
                f"{where} has activations format {version}, expected {FORMAT_VERSION}. Harvest again with this version."
            )
        try:
            fields = {name: metadata[name] for name in ("hook", "model", "revision", "recipe")}
            dtype: Dtype = metadata["dtype"]
            found = cls(
                int(metadata["d_in"]), dtype, **fields, labelled="label" in schema.names, shard=metadata.get("shard", "")
            )
            fits = schema.equals(found.schema())
        except (KeyError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise ArtifactError(f"{where} has columns or metadata that no harvest writes. Delete it and harvest again.")
        return found


def storage_dtype(dtype: str) -> np.dtype[np.generic]:
    """The numpy dtype whose little-endian bytes are stored; bfloat16's bits are kept as uint16, int8 rows as bytes."""
    return np.dtype(_STORED_AS[dtype])


def stored_width(d_in: int, dtype: str) -> int:
    """Columns of stored rows in memory, in ``storage_dtype``: d_in, and for int8 the scale's bytes too."""
    return d_in + (SCALE_BYTES if dtype == "int8" else 0)


def row_bytes(d_in: int, dtype: str) -> int:
    """Bytes of one stored activation."""
    return stored_width(d_in, dtype) * storage_dtype(dtype).itemsize


def no_rows(d_in: int, dtype: str) -> Array:
    """Stored rows, none of them."""
    return np.empty((0, stored_width(d_in, dtype)), storage_dtype(dtype))


def to_float32(activations: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Stored activations [n, stored_width] as float32 [n, d_in]; bfloat16 is the upper half of a float32."""
    if dtype == "bfloat16":
        return (activations.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "int8":
        scale = np.ascontiguousarray(activations[:, :SCALE_BYTES]).view("<f4")
        with np.errstate(invalid="ignore"):  # 0 x inf, of a row that was not finite
            found: npt.NDArray[np.float32] = activations[:, SCALE_BYTES:].view(np.int8) * scale
            return found
    return activations.astype(np.float32, copy=False)


def from_float32(activations: npt.NDArray[np.float32], dtype: str) -> Array:
    """float32 activations [n, d_in] as they are stored, [n, stored_width], rounded to nearest even.

    float16 overflows to infinity above 65,504; the caller must check. Of an int8 row that is not finite, the scale is not.
    """
    if dtype == "bfloat16":
        bits = activations.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.where(np.isnan(activations), np.uint16(0x7FC0), rounded.astype(np.uint16))
    if dtype == "int8":
        return _scaled(activations)
    with np.errstate(over="ignore"):
        return activations.astype(storage_dtype(dtype), copy=False)


def _scaled(activations: npt.NDArray[np.float32]) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.abs(activations).max(axis=1, keepdims=True) / np.float32(INT8_MAX)
        steps = np.rint(activations / np.where(scale > 0, scale, np.float32(1)))
        # A scale that is subnormal is coarse, so the largest number may be more than 127 of it.
        numbers = np.clip(np.nan_to_num(steps), -INT8_MAX, INT8_MAX).astype(np.int8)
    return np.hstack([scale.astype("<f4").view(np.uint8), numbers.view(np.uint8)])
