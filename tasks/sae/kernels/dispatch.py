"""Which backend runs the operations on a tensor: the first that can be imported and takes its device and precision."""

import logging
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from tasks.sae.kernels.backend import Backend
from tasks.sae.kernels.torch_reference import TorchBackend

logger = logging.getLogger(__name__)

_FOLDERS = ("numba", "triton")
"""Packages beside this file that each hold a ``BACKEND``, best first; they are called as the package that they need.

A process that trains on CPUs finds numba's first, and never imports Triton, which takes .6 s of CPU.
"""
_TORCH = TorchBackend()


def backend_for(tensor: Tensor) -> Backend:
    """The backend for operations on ``tensor`` and on others of its device and precision."""
    return _chosen(tensor.device.type, tensor.dtype)


@cache
def backends() -> tuple[Backend, ...]:
    """All backends that can be imported here, best first; plain torch is the last, and takes everything."""
    return tuple(_found())


def _found() -> Iterator[Backend]:
    """Backends, each imported when it is come to."""
    for folder in _FOLDERS:
        if (backend := _imported(folder)) is not None:
            yield backend
    yield _TORCH


@cache
def _chosen(device: str, dtype: torch.dtype) -> Backend:
    return next(backend for backend in _found() if backend.takes(device, dtype))


def _imported(folder: str) -> Backend | None:
    try:
        import_module(folder)
    except ImportError as error:
        logger.info("training steps run without kernels by %s: %s", folder, error)
        return None
    backend: Backend = import_module(f"tasks.sae.kernels.{folder}").BACKEND
    return backend
