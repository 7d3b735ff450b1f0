"""Architectures by the name that ``sae.arch`` gives them, and the sizes of their parameters."""

from functools import cache
from importlib import import_module

from tasks.sae.architectures.base import Architecture
from tasks.sae.config import SAEConfig
from tasks.sae.parameters import Layout


@cache
def architecture(name: str) -> Architecture:
    """The architecture of a name in ``NAMES``, from the file that is called so."""
    found: Architecture = import_module(f"tasks.sae.architectures.{name}").ARCHITECTURE
    return found


def layout(config: SAEConfig, d_in: int, d_out: int | None = None) -> Layout:
    """Sizes of the parameters of an SAE that rebuilds rows of ``d_out`` features (empty: its input's) from ``d_in``."""
    d_out = d_in if d_out is None else d_out
    extra = architecture(config.arch).extra(config)
    if config.skip:
        extra = extra | {"W_skip": (d_out, d_in)}
    return Layout(d_in, config.d_sae, d_out, extra)
