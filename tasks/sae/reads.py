"""Which settings of ``sae`` an architecture reads, told without torch."""

from tasks.sae.registry import SETTINGS

_READ_BY_ALL = ("arch", "d_sae", "skip", "b_dec")


def read_by(arch: str) -> frozenset[str]:
    """Names of the settings that decide what an SAE of this architecture becomes; changing another changes nothing.

    ``d_in`` is none of them: it is the width of the activations, whether a configuration says so or not.
    """
    return frozenset((*_READ_BY_ALL, *SETTINGS[arch]))


def unread_by(arch: str) -> frozenset[str]:
    """Names of the settings that only other architectures read, and ``d_in``. What nobody declares counts as read."""
    declared = (name for names in SETTINGS.values() for name in names)
    return frozenset((*declared, "d_in")) - read_by(arch)
