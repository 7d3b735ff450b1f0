"""Own activations in one array: .npy and .safetensors, memory-mapped. Headers are checked before anything follows them."""

import ast
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from tasks.errors import InputError
from tasks.harvest.source import NUMBERS, Float32s, as_float32, require_width
from tasks.storage.foreign import reading

_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 65_536
# How the first bytes of other things begin that are given the name .npy.
_OTHERS = {b"PK": "a .npz archive (or another zip file)", b"\x80": "a pickle, which is never read", b"PAR1": "Parquet"}
# numpy has no bfloat16: ml_dtypes' arrays are saved as two bytes without a meaning.
_HINTS = {
    "V": " (numpy writes bfloat16 so, without its name: save it as float32, or in a .safetensors file)",
    "O": " (Python objects, which are never unpickled)",
    "b": " (true and false)",
    "c": " (complex numbers)",
}
_SAFETENSORS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"}


@dataclass(frozen=True)
class Matrix:
    """Rows that numpy can slice: a memory-mapped .npy or a tensor of a .safetensors file."""

    values: Any
    n_rows: int
    d_in: int
    where: str
    labels: list[str] | None = None

    def chunks(self, rows: int) -> Iterator[tuple[Float32s, list[str] | None]]:
        """As ``Source`` has it."""
        for first in range(0, self.n_rows, rows):
            labels = None if self.labels is None else self.labels[first : first + rows]
            with reading(self.where, "a matrix"):
                some = as_float32(self.values[first : first + rows])
            yield some, labels


def open_npy(path: str, name: str | None = None) -> Matrix:
    """The array of a .npy file, which errors call ``name`` if that is not its path.

    Raises:
        InputError: the file is none, is cut short, or holds something else than a matrix of numbers.
    """
    where = f"activations.source {name or path}"
    with reading(where, ".npy"), open(path, "rb") as file:
        shape, fortran, dtype, offset = _header(file, where)
        size = os.fstat(file.fileno()).st_size
    _require_matrix(where, shape, str(dtype), dtype.kind in "fiu", _HINTS.get(dtype.kind, ""))
    expected = offset + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise InputError(f"{where} is {size:,} bytes long, but its header speaks of {expected:,}; save the array again.")
    with reading(where, ".npy"):
        values = np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    return Matrix(values, shape[0], shape[1], where)


def _header(file: BinaryIO, where: str) -> tuple[tuple[int, ...], bool, "np.dtype[Any]", int]:
    """Shape, order, dtype and first byte of the numbers. The header is a Python literal, read as nothing but that."""
    start = file.read(len(_MAGIC) + 2)
    if not start.startswith(_MAGIC):
        other = next((what for magic, what in _OTHERS.items() if start.startswith(magic)), None)
        raise InputError(f"{where} is {other or 'no .npy file'}; a .npy file as numpy.save writes it was expected.")
    length_bytes = 2 if start[-2] == 1 else 4
    length = int.from_bytes(file.read(length_bytes), "little")
    if start[-2] not in (1, 2, 3) or length > _HEADER_BYTES:
        raise InputError(f"{where} is of .npy version {start[-2]} with a header of {length:,} bytes, which is damaged.")
    found = ast.literal_eval(file.read(length).decode("latin1").strip())
    shape, fortran, descr = found["shape"], found["fortran_order"], found["descr"]
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape):
        raise InputError(f"{where} has the shape {shape!r} in its header, which is none.")
    return shape, bool(fortran), np.lib.format.descr_to_dtype(descr), file.tell()


def open_safetensors(path: str, tensor: str | None, name: str | None = None) -> Matrix:
    """A tensor of a .safetensors file: the one that is named, or the only one. Errors call the file ``name`` if given.

    Raises:
        InputError: the file is damaged, lacks it, or it is no matrix of numbers.
    """
    called = name or path
    where = f"activations.source {called}"
    with reading(where, ".safetensors"):
        # torch, since numpy has no bfloat16; the file stays memory-mapped
        file: Any = safe_open(path, framework="pt")
        names = sorted(file.keys())
    wanted = names[0] if tensor is None and len(names) == 1 else tensor
    if wanted not in names:
        raise InputError(f"activations.tensor is {tensor!r} but must be one of those in {called}: {', '.join(names)}.")
    with reading(where, ".safetensors"):
        values = file.get_slice(wanted)
        shape, dtype = tuple(values.get_shape()), str(values.get_dtype())
    _require_matrix(where, shape, dtype, dtype in _SAFETENSORS, "")
    return Matrix(_Float32Slices(values), shape[0], shape[1], where)


@dataclass(frozen=True)
class _Float32Slices:
    values: Any

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = self.values[rows].float().numpy()
        return found


def _require_matrix(where: str, shape: tuple[int, ...], dtype: str, numeric: bool, hint: str) -> None:
    if not numeric:
        raise InputError(f"{where} holds {dtype}{hint}; a matrix [n, d_in] of {NUMBERS} was expected.")
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"{where} has shape {list(shape)}; a matrix of numbers [n, d_in] was expected.")
    require_width(where, shape[1])
