"""What a logger is, and what it is given of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from tasks.train.curve import CurveRow


class RunLogger(Protocol):
    """A place where the curve of one run is shown."""

    def log(self, row: CurveRow, waiting: float | None) -> None:
        """Show a row that was not logged before. ``waiting`` is the share of time so far that the next batch was waited
        for, None where it is not known any more: a row from before a kill that had not been logged then.
        """

    def close(self, failed: bool) -> None:
        """Send what is left; ``failed``: training did not reach its end."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a logger shows of a run beside its curve."""

    name: str
    """Of the SAE's directory."""
    id: str
    """The hash in the SAE's address, which a run that goes on has again."""
    settings: Mapping[str, Any]
    """By dotted name, with nothing left open."""


def figures(row: CurveRow, waiting: float | None) -> dict[str, float]:
    """What is shown of a row, by name."""
    found = {f"train/{name}": value for name, value in asdict(row).items() if name != "step"}
    return found if waiting is None else found | {"train/waiting": waiting}
