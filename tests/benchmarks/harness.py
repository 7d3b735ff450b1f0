"""What all benchmarks share: their arguments, what machine they ran on, and how they say what they found."""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import torch

from tasks.precision import this_machine


def arguments(description: str, add: Callable[[argparse.ArgumentParser], None] | None = None) -> argparse.Namespace:
    spec = sys.modules["__main__"].__spec__
    # Of a folder that is run, argparse would say __main__.py.
    prog = f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--quick", action="store_true", help="a smaller run, to see that it works")
    parser.add_argument("--json", type=Path, help="write checks, rows and environment there")
    if add is not None:
        add(parser)
    return parser.parse_args()


def environment() -> dict[str, Any]:
    cpu = this_machine(gpus=False)
    return {
        "machine": platform.machine(),
        "cpu": cpu.cpu,
        "multiplies_bfloat16_by": cpu.fast or cpu.limit,
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": psutil.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyarrow": pyarrow.__version__,
    }


def peak_bytes() -> int:
    """The most resident memory of this process, since it began or since the mark was reset (man 5 proc). Linux only."""
    # Not ru_maxrss, which begins at what the parent had when it forked.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a Markdown table, ready for the README."""
    names = list(rows[0])
    print("| " + " | ".join(names) + " |")
    print("|" + "|".join(" --- " for _ in names) + "|")
    for row in rows:
        print("| " + " | ".join(_text(row[name]) for name in names) + " |")


def finish(
    path: Path | None, checks: Mapping[str, float], rows: Sequence[Mapping[str, Any]], where: Mapping[str, Any]
) -> None:
    show(rows)
    print(json.dumps(checks, indent=1))
    if path is not None:
        path.write_text(json.dumps({"checks": checks, "rows": rows, "environment": where}, indent=1) + "\n")


def _text(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
