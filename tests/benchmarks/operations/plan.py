"""How far a plan is from the run: planned in a fresh storage and with an empty cache, run, and compared, for several sizes.

    python -m tests.benchmarks.operations.plan [--quick] [--json FILE]

The first size is the demo. The second, another hook and half the tokens, is planned in two ways: by a probe, with nothing
known, and by the account of the demo's run. No plan has seen the run that it is held against.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import ROOT
from tests.benchmarks.command_line import SMALL
from tests.benchmarks.harness import arguments, environment, finish

WANTED = 0.2
SIZES = {
    "demo": (),
    "layer 15, half the tokens": ("harvest.hooks=[model.layers.15]", "text.max_tokens=150000", "train.tokens=500000"),
}
QUICK = {
    "small demo": SMALL,
    "layer 4, half the tokens": (
        "harvest.hooks=[model.layers.4]",
        "text.max_tokens=30000",
        "train.tokens=50000",
        "sae.d_sae=1024",
        "score.splice_tokens=1024",
    ),
}


def main() -> None:
    options = arguments(__doc__)
    where = environment()
    sizes = QUICK if options.quick else SIZES
    with tempfile.TemporaryDirectory() as folder:
        rows = list(_held_against_runs(sizes, Path(folder)))
    checks = {f"plan_{row['plan']}_{row['size']}_{what}_off": abs(row[f"{what} off"]) for row in rows for what in _OFF}
    finish(options.json, checks, rows, where)
    for name, off in checks.items():
        if off > WANTED:
            print(f"{name} is {off:.0%}, more than {WANTED:.0%}", file=sys.stderr)


_OFF = ("time", "bytes")


def _held_against_runs(sizes: dict[str, Sequence[str]], folder: Path) -> Iterator[dict[str, Any]]:
    """Each size planned by a probe; all but the first also by the accounts of those before it, in whose storage it runs."""
    together = folder / "together"
    for number, (name, settings) in enumerate(sizes.items()):
        cache = folder / f"cache-{number}"
        plans = {"by a probe": _saemill("plan", folder / f"fresh-{number}", settings, cache)}
        if number:
            plans["by an earlier run"] = _saemill("plan", together, settings, cache)
        began = time.monotonic()
        before = _bytes(together)
        _saemill("run", together, settings, folder / f"unread-{number}")
        took, stored = time.monotonic() - began, _bytes(together) - before
        for by, plan in plans.items():
            planned = plan["hours"] * 3600
            yield {
                "size": name,
                "plan": by,
                "planned s": planned,
                "took s": took,
                "time off": planned / took - 1,
                "planned MB": plan["bytes"] / 1e6,
                "stored MB": stored / 1e6,
                "bytes off": plan["bytes"] / stored - 1,
                **{f"{stage} s": 3600 * found["hours"] for stage, found in plan["stages"].items()},
            }
        accounts = sorted((together / "accounts").glob("*.json"))
        print(f"{name}: {json.dumps(_stages(accounts[-1]))}", file=sys.stderr)


def _stages(account: Path) -> dict[str, float]:
    found = json.loads(account.read_text())
    return {"begin": found["begin_seconds"]} | {name: stage["seconds"] for name, stage in found["stages"].items()}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _saemill(verb: str, storage: Path, settings: Sequence[str], cache: Path) -> dict[str, Any]:
    overrides = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "flows.cli", verb, "configs/demo.yaml", "--storage", str(storage), "--json", *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
