"""The formats in which SAEs come and go, by name. One is a module with ``files`` and ``read``, and a line here."""

from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, cast

from tasks.errors import InputError

if TYPE_CHECKING:
    from tasks.interchange.portable import Portable
    from tasks.storage.base import ObjectStore

FormatName = Literal["saelens", "sparsify", "dictionary_learning", "circuit-tracer"]

# Imported when asked for: the command line reads the names, and torch takes 2 s.
_HOMES: dict[FormatName, str] = {
    "saelens": "tasks.interchange.saelens",
    "sparsify": "tasks.interchange.sparsify",
    "dictionary_learning": "tasks.interchange.dictionary_learning",
    "circuit-tracer": "tasks.interchange.circuit_tracer",
}
NAMES: tuple[FormatName, ...] = tuple(_HOMES)
_FILES: dict[FormatName, tuple[str, ...]] = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
    "circuit-tracer": ("config.yaml",),
}
"""The files by whose names a folder of each format is known."""


class SAEFormat(Protocol):
    """How one library keeps an SAE in a folder."""

    def files(self, sae: "Portable") -> "dict[str, bytes]":
        """The folder's files, the one that makes it whole last.

        Raises:
            InputError: the format cannot hold this SAE.
        """
        ...

    def read(self, store: "ObjectStore") -> "Portable":
        """The SAE of a folder.

        Raises:
            InputError: the folder is another's, damaged, or holds what saemill has no architecture for.
        """
        ...


def format_of(store: "ObjectStore") -> FormatName | None:
    """The format of a folder, by the names of its files; None where they are of none of these."""
    names = {key for files in _FILES.values() for key in files}
    there = {key for key in names if store.head(key) is not None}
    return next((name for name, files in _FILES.items() if there.issuperset(files)), None)


def open_format(name: FormatName) -> SAEFormat:
    """The format of that name.

    Raises:
        InputError: there is none.
    """
    if name not in _HOMES:
        raise InputError(f"--format is {name!r} but must be one of {', '.join(NAMES)}.")
    return cast(SAEFormat, import_module(_HOMES[name]))
