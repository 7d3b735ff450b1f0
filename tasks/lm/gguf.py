"""GGUF files, read at the speed that their size deserves.

transformers 5.23 with gguf 0.19 takes 27 s on one core for the tokenizer and weights of SmolLM2-135M (93 MB): it walks
the vocabulary through ``np.memmap`` slices, once per call, and builds the map of tensor names once per submodule (397
times). ``quick_gguf`` takes 3.4 s for the same objects, by a reader with cheap slices and by remembering both results.
"""

import contextlib
import copy
import functools
import importlib
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tasks.errors import InputError

MAGIC = b"GGUF"
_VOCABULARY = "tokenizer.ggml."
_PIECE_BYTES = 2**18
"""Of a packed tensor, that are unpacked at once."""


class _QuickReader(gguf.GGUFReader):  # type: ignore[misc]
    """``gguf.GGUFReader`` over a plain view of the mapped file: np.memmap pays for every slice it hands out."""

    @property
    def data(self) -> npt.NDArray[np.uint8]:
        return self._data

    @data.setter
    def data(self, mapped: npt.NDArray[np.uint8]) -> None:
        self._data = mapped.view(np.ndarray)

    @override
    def _get(
        self,
        offset: int,
        dtype: npt.DTypeLike,
        count: int = 1,
        override_order: Literal["I", "S", "<"] | None = None,
    ) -> npt.NDArray[Any]:
        ordered = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        return np.frombuffer(self._data, ordered, int(count), int(offset))


def _in_pieces(unpack: Callable[..., npt.NDArray[Any]]) -> Callable[..., npt.NDArray[Any]]:
    """The same unpacking, some rows at a time: gguf's takes several times the memory of what it gives meanwhile."""

    def unpacked(data: npt.NDArray[Any], kind: gguf.GGMLQuantizationType) -> npt.NDArray[Any]:
        if data.ndim < 2 or data.nbytes <= _PIECE_BYTES or kind == gguf.GGMLQuantizationType.F32:
            return unpack(data, kind)
        rows = max(1, _PIECE_BYTES * len(data) // data.nbytes)
        first = unpack(data[:rows], kind)
        found = np.empty((len(data), *first.shape[1:]), first.dtype)
        found[:rows] = first
        for start in range(rows, len(data), rows):
            found[start : start + rows] = unpack(data[start : start + rows], kind)
        return found

    return unpacked


class _NumpyWithoutNeedlessCopies:
    """numpy, as transformers' reader of GGUF uses it, which copies each tensor once more than it has to."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def copy(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array itself where it has its memory to itself: not of those that lie in the file."""
        return array if array.flags.owndata and array.flags.c_contiguous else np.copy(array)


@contextlib.contextmanager
def quick_gguf() -> Iterator[None]:
    """While this is open, transformers reads GGUF files quickly and without progress bars; the results are the same.

    transformers looks these names up at each call and takes no reader of ours, hence the replacement.
    """
    loader = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(gguf, "GGUFReader", functools.lru_cache(1)(_QuickReader)))
        stack.enter_context(_replaced(gguf, "get_tensor_name_map", functools.lru_cache(1)(gguf.get_tensor_name_map)))
        stack.enter_context(_replaced(loader, "tqdm", functools.partial(loader.tqdm, disable=True)))
        stack.enter_context(_replaced(gguf, "dequantize", _in_pieces(gguf.dequantize)))
        stack.enter_context(_replaced(loader, "np", _NumpyWithoutNeedlessCopies()))
        yield


@contextlib.contextmanager
def only_layers(kept: int) -> Iterator[None]:
    """While this is open, transformers finds no tensors of layers from ``kept`` on in a GGUF file.

    It would unpack every tensor of the file, only to leave out those that the model has no module for.
    """
    parse = gguf.GGUFReader

    def without_later_layers(path: Any) -> Any:
        found = copy.copy(parse(path))  # the one within may be remembered
        found.tensors = [tensor for tensor in found.tensors if _layer(tensor.name) < kept]
        return found

    with _replaced(gguf, "GGUFReader", without_later_layers):
        yield


@contextlib.contextmanager
def without_vocabulary() -> Iterator[None]:
    """While this is open, transformers finds no vocabulary in a GGUF file, and one that was parsed before is let go.

    Weights need none of it, and SmolLM2's is 50 MiB of small objects at the moment when memory is fullest.
    """
    parse = gguf.GGUFReader

    def slender(path: Any) -> Any:
        found = parse(path)  # may be remembered, which is why its own dictionary is emptied
        for name in [name for name in found.fields if name.startswith(_VOCABULARY)]:
            del found.fields[name]
        return found

    with _replaced(gguf, "GGUFReader", slender):
        yield


def _layer(tensor: str) -> int:
    """The number of the layer that a tensor is of, by the format's names (blk.8.attn_q.weight); -1 outside of layers."""
    found = re.match(r"(?:enc\.|dec\.)?blk\.(\d+)\.", tensor)
    return -1 if found is None else int(found[1])


def check_gguf(path: Path) -> None:
    """Refuse a file that is not GGUF or whose end is missing, before anything long begins (0.5 s for 93 MB, once).

    Raises:
        InputError: the file cannot be read, is of another format, or is cut short.
    """
    try:
        stat = path.stat()
        _parse(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError, struct.error) as error:
        raise InputError(f"{path} is a damaged or incomplete GGUF file ({error}). Download it again.") from None


@functools.lru_cache(maxsize=8)
def _parse(path: Path, size: int, mtime_ns: int) -> None:
    """Read the whole header; size and time of change are there to notice that a remembered success is stale."""
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise InputError(f"{path} is not a GGUF file: it starts with {magic!r} instead of {MAGIC!r}.")
    _QuickReader(path)


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
