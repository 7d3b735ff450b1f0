"""How a long stage tells how far it is, without knowing who listens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """One observation of a stage at work."""

    stage: str
    done: int
    total: int
    unit: str = "tokens"
    per_second: float | None = None
    """Rate since this process began the stage, in units per second."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Further figures worth a glance, such as loss, fvu, l0, dead."""


Listener = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Listen to nothing."""
