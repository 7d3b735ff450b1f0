"""What each part of the script gives."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Part(NamedTuple):
    checks: dict[str, float]
    """Figures by name, as other benchmarks have them."""
    rows: Sequence[Mapping[str, Any]]


def figures(found: Mapping[str, Mapping[str, Any]]) -> Part:
    """Of a part that tells by name what it measured: a row for each figure, and for each contender of those in turn."""
    rows = []
    for name, measured in found.items():
        for figure, value in measured.items():
            several = value if isinstance(value, list) else [{"contender": "", "median": value, "ratio": None}]
            rows += [{"of": name, "figure": f"{figure} {one['contender']}".strip(), **_value(one)} for one in several]
    checks = {f"{row['of']}: {row['figure']}": row["value"] for row in rows if isinstance(row["value"], int | float)}
    return Part(checks, rows)


def _value(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": one["median"], "ratio": one["ratio"]}


def written(path: Path | None, parts: Mapping[str, Part], where: Mapping[str, Any]) -> None:
    """Print the figures of all parts so far, and write them with all rows."""
    checks = {name: figure for part in parts.values() for name, figure in part.checks.items()}
    print(json.dumps(checks, indent=1), flush=True)
    if path is not None:
        rows = {name: list(part.rows) for name, part in parts.items()}
        path.write_text(json.dumps({"checks": checks, "rows": rows, "environment": where}, indent=1) + "\n")
