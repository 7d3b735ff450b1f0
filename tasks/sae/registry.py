"""Architectures by the name that ``sae.arch`` gives them; a new one is a file beside ``topk`` and a line here.

Nothing of torch is imported until an architecture is asked for: the settings read the names.
"""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.sae.architecture import Architecture

_SELECTED = ("k", "k_start", "aux_k", "aux_coefficient")
_HOMES = {
    "topk": ("topk", "TopK", "the k largest latents of each token, with AuxK", _SELECTED),
    "batchtopk": ("batchtopk", "BatchTopK", "k latents a token on average: the largest of the whole batch", _SELECTED),
    "matryoshka": (
        "batchtopk",
        "Matryoshka",
        "BatchTopK whose first latents must rebuild the activation alone",
        (*_SELECTED, "prefixes"),
    ),
    "jumprelu": (
        "jumprelu",
        "JumpReLU",
        "a learnt threshold per latent, with an L0 penalty",
        ("k", "l0_coefficient", "bandwidth"),
    ),
    "jumprelu_l0": (
        "jumprelu",
        "JumpReLUTargetL0",
        "a learnt threshold per latent, with a penalty on missing k active latents",
        ("k", "l0_coefficient", "bandwidth"),
    ),
    "jumprelu_tanh": (
        "jumprelu",
        "JumpReLUTanh",
        "a learnt threshold per latent, with a tanh penalty",
        ("k", "tanh_coefficient", "tanh_scale", "pre_act_coefficient", "bandwidth"),
    ),
    "gated": ("gated", "Gated", "one half decides which latents are active, the other how much", ("k", "l1_coefficient")),
    "l1": ("relu", "L1", "ReLU, with L1 on latents weighted by decoder row norms", ("k", "l1_coefficient")),
    "l1_2023": (
        "relu",
        "L1UnitNorm",
        "ReLU with L1, unit-norm decoder, and resampling of dead latents",
        ("k", "l1_coefficient"),
    ),
    "p_anneal": (
        "p_anneal",
        "PAnneal",
        "ReLU with an Lp penalty whose p falls from 1",
        ("k", "l1_coefficient", "p_final"),
    ),
    "dense": ("relu", "Dense", "a plain autoencoder of the same parts without sparsity, for comparison", ()),
}

NAMES = tuple(_HOMES)
ABOUT = {name: about for name, (_, _, about, _) in _HOMES.items()}
SETTINGS: dict[str, tuple[str, ...]] = {name: settings for name, (_, _, _, settings) in _HOMES.items()}
"""What of ``sae`` an architecture reads beside the settings that all read."""


@cache
def architecture(name: str) -> "Architecture":
    """The architecture of a name in ``NAMES``."""
    module, kind, _, _ = _HOMES[name]
    found: Architecture = getattr(import_module(f"tasks.sae.{module}"), kind)()
    return found
