"""Architectures by the name that ``sae.arch`` gives them; a new one is a file beside ``topk`` and a line here.

Nothing of torch is imported until an architecture is asked for: the settings read the names.
"""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.sae.architecture import Architecture

_HOMES = {
    "topk": ("tasks.sae.topk", "TopK", "the k largest latents of each token, with AuxK"),
    "batchtopk": ("tasks.sae.batchtopk", "BatchTopK", "k latents a token on average: the largest of the whole batch"),
    "matryoshka": ("tasks.sae.batchtopk", "Matryoshka", "BatchTopK whose first latents must rebuild the activation alone"),
    "jumprelu": ("tasks.sae.jumprelu", "JumpReLU", "a learnt threshold per latent, with an L0 penalty"),
    "jumprelu_l0": ("tasks.sae.jumprelu", "JumpReLUTargetL0", "a learnt threshold per latent, aiming at k active latents"),
    "jumprelu_tanh": ("tasks.sae.jumprelu", "JumpReLUTanh", "a learnt threshold per latent, with a tanh penalty"),
    "gated": ("tasks.sae.gated", "Gated", "one half decides which latents are active, the other how much"),
    "l1": ("tasks.sae.relu", "L1", "ReLU, with L1 on latents weighted by decoder row norms"),
    "l1_2023": ("tasks.sae.relu", "L1UnitNorm", "ReLU with L1, unit-norm decoder, and resampling of dead latents"),
    "p_anneal": ("tasks.sae.p_anneal", "PAnneal", "ReLU with an Lp penalty whose p falls from 1"),
    "dense": ("tasks.sae.relu", "Dense", "a plain autoencoder of the same parts without sparsity, for comparison"),
}

NAMES = tuple(_HOMES)
ABOUT = {name: about for name, (_, _, about) in _HOMES.items()}


@cache
def architecture(name: str) -> "Architecture":
    """The architecture of a name in ``NAMES``."""
    module, kind, _ = _HOMES[name]
    found: Architecture = getattr(import_module(module), kind)()
    return found
