"""Tensors and settings that came in a file, checked by name and shape before anything is made of them."""

import json
import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from tasks.errors import InputError
from tasks.storage.artifacts import parse_json
from tasks.storage.base import ObjectStore
from tasks.storage.foreign import reading

Shapes = dict[str, tuple[str, ...]]
"""A tensor's axes by name; axes of one name have one size."""
T = TypeVar("T")
_SHOWN = 8


def checked(tensors: Mapping[str, Tensor], shapes: Shapes, where: str, ignored: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors named in ``shapes``, contiguous and in float32.

    Raises:
        InputError: one is missing, of another shape, not of numbers, or not known to the format at all.
    """
    lacking = [name for name in shapes if name not in tensors]
    surplus = sorted(tensors.keys() - shapes.keys() - set(ignored))
    if lacking or surplus:
        what = f"lacks {', '.join(lacking)}" if lacking else f"also holds {', '.join(surplus)}, unknown to this architecture"
        raise InputError(f"{where} {what}; expected were {', '.join(shapes)}.")
    sizes: dict[str, int] = {}
    for name, axes in shapes.items():
        shape = tuple(tensors[name].shape)
        if len(shape) != len(axes) or any(sizes.setdefault(a, n) != n for a, n in zip(axes, shape, strict=True)):
            wanted = ", ".join(f"{axis} {sizes[axis]}" if axis in sizes else axis for axis in axes)
            raise InputError(f"{where} has {name} of shape {list(shape)}, which does not fit; expected was [{wanted}].")
    return {name: _numbers(name, tensors[name], where) for name in shapes}


def _numbers(name: str, tensor: Tensor, where: str) -> Tensor:
    require_plain(name, tensor, where)
    if not tensor.is_floating_point():
        raise InputError(f"{where} has {name} of dtype {tensor.dtype}; floating-point numbers were expected.")
    found = tensor.float().contiguous()
    if not found.isfinite().all():  # after the cast: 1e300 is infinite in float32
        raise InputError(f"{where} has {name} with numbers that are not finite in float32.")
    return found


def require_plain(name: str, tensor: Tensor, where: str) -> None:
    """Refuse tensors whose numbers are not all there: sparse, without data, or a few numbers seen many times over.

    Raises:
        InputError: it is one of these.
    """
    whole = tensor.layout == torch.strided and not tensor.is_meta
    if not whole or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise InputError(f"{where} has {name} as a tensor without numbers of its own; a plain, dense tensor was expected.")


def read_bytes(store: ObjectStore, key: str, library: str) -> bytes:
    """A file of a folder that another library wrote.

    Raises:
        InputError: there is no such file.
    """
    try:
        return store.get(key)
    except FileNotFoundError:
        raise InputError(f"{store.uri} holds no {key}, which {library} writes; {_told(store)}.") from None


def _told(store: ObjectStore) -> str:
    """What a folder holds instead; only its own level, since it may be anybody's."""
    try:
        names = sorted(store.names())
    except OSError:
        names = []
    shown = names[:_SHOWN]
    more = ", ..." if len(names) > _SHOWN else ""
    return f"there are {', '.join(shown)}{more}" if shown else "the folder is empty or not there"


def read_tensors(store: ObjectStore, key: str, library: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    data = read_bytes(store, key, library)
    with reading(f"{store.uri}/{key}", "safetensors"):
        found: dict[str, Tensor] = tensors_from_bytes(data)
    return found


def read_settings(store: ObjectStore, key: str, library: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: there is no such file, or it holds no JSON object.
    """
    try:
        found = parse_json(read_bytes(store, key, library))
    except ValueError as error:
        raise InputError(f"{store.uri}/{key} {error}.") from None
    if not isinstance(found, dict):
        raise InputError(f"{store.uri}/{key} holds no JSON object.")
    return found


def setting(settings: Mapping[str, Any], name: str, kind: type[T], where: str, default: T | None = None) -> T:
    """One setting of a type, or ``default`` where it is absent or null (None: it must be there).

    Raises:
        InputError: it is missing or of another type.
    """
    value = settings.get(name)
    value = default if value is None else value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "is missing" if value is None else f"is {reprlib.repr(value)[:200]}"
        raise InputError(f"{where}: {name} {found}; expected was one of type {kind.__name__}.")
    return value


def text(settings: Mapping[str, Any], name: str, where: str) -> str | None:
    """A setting that is text, or None where it is absent, null or empty.

    Raises:
        InputError: it is something else.
    """
    return setting(settings, name, str, where, "") or None


def json_and_safetensors(
    config: str, weights: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, bytes]:
    """A folder's two files by name, settings last, since they make it whole."""
    return {weights: to_safetensors(tensors), config: to_settings(settings)}


def to_settings(value: Mapping[str, Any]) -> bytes:
    """A JSON file as it is written for other libraries."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def to_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file as it is written for other libraries; equal tensors give equal bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(tensors_to_bytes(plain, metadata={"format": "pt"}))
