"""The demo from text to report, as a user runs it: seconds, figures, and the peak memory of all its processes together.

Memory is the proportional set size (shared pages counted once over all processes that map them), read every half second.
"""

import json
import subprocess
import tempfile
import threading
import time
from typing import Any

import psutil

from tasks.storage.artifacts import read_json
from tests.benchmarks import ROOT
from tests.benchmarks.command_line import SMALL, command
from tests.benchmarks.harness import arguments, environment, finish


def main() -> None:
    options = arguments(__doc__)
    where = environment()
    with tempfile.TemporaryDirectory() as storage:
        demo = command("run", "configs/demo.yaml", storage, SMALL if options.quick else ())
        first, seconds, peak = _watched(demo)
        again, seconds_again, _ = _watched(demo)
        assert again == first, "a second run must find what the first one made"
        rows = _stages(first)
    summary = first["summary"]
    checks = {
        "demo_seconds": seconds,
        "demo_again_seconds": seconds_again,
        "demo_peak_gib": peak / 2**30,
        "demo_fvu": summary["fvu"],
        **{f"demo_fvu_{name}": found["fvu"] for name, found in summary["baselines"].items()},
        "demo_dead_fraction": summary["dead_fraction"],
        "demo_ce_recovered": summary["ce_recovered"],
        "demo_harvest_tokens_per_second": summary["tokens_per_second"]["harvest"],
        "demo_training_tokens_per_second": summary["tokens_per_second"]["training"],
    }
    finish(options.json, checks, rows, where)


def _watched(command: list[str]) -> tuple[dict[str, Any], float, int]:
    """What the command printed last, its seconds, and the peak memory of its processes in bytes."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the demo ended with exit code {process.returncode}")
    return json.loads(out), time.monotonic() - began, peak[0]


def _watch(pid: int, peak: list[int]) -> None:
    while psutil.pid_exists(pid):
        peak[0] = max(peak[0], _tree_bytes(pid))
        time.sleep(0.5)


def _tree_bytes(pid: int) -> int:
    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:
        return total  # a process ended while it was looked at
    return total


def _stages(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for stage in ("tokens", "activations", "sae", "scores", "report"):
        timings = read_json(result[stage], "run.json") or {}
        rows.append({"stage": stage, "seconds": timings.get("seconds"), "tokens/s": timings.get("tokens_per_second")})
    return rows


if __name__ == "__main__":
    main()
