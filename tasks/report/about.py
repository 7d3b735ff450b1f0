"""What is told of a run beside what lies in its results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.report.config import ReportConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """Of one report."""

    settings: ReportConfig = field(default_factory=ReportConfig)
    source: str | None = None
    """Where the user's own activations were read from; None where a model's were harvested."""
    train_tokens: int | None = None
    """Rows that training was to see, for an SAE that does not say how many it saw."""
    shown: Mapping[str, Any] = field(default_factory=dict)
    """All settings, by group."""
