"""The maths of sparse autoencoders: pure torch, from raw activations to codes and back.

Names that need torch are imported when first used: settings are read in processes that never need it, and it takes 2 s.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tasks.sae.config import SAEConfig

if TYPE_CHECKING:
    from tasks.sae.checkpoint import load, save
    from tasks.sae.model import SparseAutoencoder

__all__ = ["SAEConfig", "SparseAutoencoder", "load", "save"]

_HOMES = {"load": "tasks.sae.checkpoint", "save": "tasks.sae.checkpoint", "SparseAutoencoder": "tasks.sae.model"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
