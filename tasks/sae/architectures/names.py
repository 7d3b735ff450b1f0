"""The architectures that ``sae.arch`` may name, and what each says of itself; settings and report read it without torch.

A new architecture is a file beside this one, called as in ``sae.arch``, and a line in ``NAMES``.
"""

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

NAMES = (
    "topk",
    "batchtopk",
    "matryoshka",
    "jumprelu",
    "jumprelu_l0",
    "jumprelu_tanh",
    "gated",
    "l1",
    "l1_2023",
    "p_anneal",
    "dense",
)

COMMON = ("arch", "d_in", "d_sae", "skip", "b_dec")
"""Settings of ``sae`` that every architecture reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an architecture is called, and what it reads of the settings."""

    title: str
    """Its name in a report."""
    about: str
    """What it is, in a few words."""
    k: Literal["row", "batch", "aim", "none"]
    """What ``sae.k`` is to it: latents kept of each row, latents kept per row on average over a batch, a number of active
    latents that training aims at, or nothing."""
    settings: tuple[str, ...]
    """Settings of ``sae`` that it reads beside ``COMMON``."""

    @property
    def reads(self) -> frozenset[str]:
        """All settings of ``sae`` that it reads."""
        return frozenset({*COMMON, *self.settings})

    @property
    def keeps_k(self) -> bool:
        """Whether k latents are kept, of each row or on average over a batch."""
        return self.k in ("row", "batch")

    @property
    def is_sparse(self) -> bool:
        """Whether anything asks for few active latents."""
        return self.k != "none"


@cache
def describe(name: str) -> Description:
    """The ``DESCRIPTION`` in an architecture's file.

    The file is read and not imported, because that would import torch; setuptools reads a version in this way (``attr:``).
    So the description's arguments have to be literals.

    Raises:
        LookupError: there is no such file, or it has no description.
    """
    spec = find_spec(f"{__package__}.{name}")
    if spec is None or spec.origin is None:
        raise LookupError(f"There is no file of the architecture {name!r}.")
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "DESCRIPTION"
            and isinstance(node.value, ast.Call)
        ):
            return Description(**{str(word.arg): ast.literal_eval(word.value) for word in node.value.keywords})
    raise LookupError(f"{spec.origin} has no DESCRIPTION.")


def find(name: str) -> Description | None:
    """What an architecture says of itself; None for a name that is not known here."""
    return describe(name) if name in NAMES else None
