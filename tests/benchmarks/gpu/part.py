"""What each part of the script gives."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Part(NamedTuple):
    checks: dict[str, float]
    """Figures by name, as other benchmarks have them."""
    rows: Sequence[Mapping[str, Any]]


def written(path: Path | None, parts: Mapping[str, Part], where: Mapping[str, Any]) -> None:
    """Print the figures of all parts so far, and write them with all rows."""
    checks = {name: figure for part in parts.values() for name, figure in part.checks.items()}
    print(json.dumps(checks, indent=1), flush=True)
    if path is not None:
        rows = {name: list(part.rows) for name, part in parts.items()}
        path.write_text(json.dumps({"checks": checks, "rows": rows, "environment": where}, indent=1) + "\n")
