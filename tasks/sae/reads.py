"""Which settings of ``sae`` decide what an SAE becomes, told without torch."""

from tasks.sae.architectures.names import NAMES, describe

_OF_ACTIVATIONS = frozenset({"d_in"})
"""It is the width of the activations, whether a configuration says so or not."""


def read_by(arch: str) -> frozenset[str]:
    """Names of the settings that decide what an SAE of this architecture becomes; changing another changes nothing."""
    return describe(arch).reads - _OF_ACTIVATIONS


def unread_by(arch: str) -> frozenset[str]:
    """Names of the settings that only other architectures read, and ``d_in``. What nobody declares counts as read."""
    declared = frozenset().union(*(describe(name).reads for name in NAMES))
    return (declared | _OF_ACTIVATIONS) - read_by(arch)
