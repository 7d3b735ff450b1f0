"""Whether this tree makes the same results as a commit of before, byte by byte, on this machine.

    python -m tests.benchmarks.regression.same_outputs COMMIT [--cases toy demo ...] [--quick]

Each case is run by the commit's own code and by this tree's, into storages of their own, and all files are compared but
for what tells of the run itself (run.json, checkpoints, records of commits). Addresses may differ: in names of folders and
in texts they count as equal. What differs otherwise is told, JSON line by line and tables column by column, and ends the
command with 1. Kinds of CPU round differently, so nothing is recorded: both sides are run where the question is asked.
"""

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from tests.benchmarks import ROOT
from tests.benchmarks.command_line import SMALL

SWEEP = ("sweep.d_sae=[512, 1024]", "sweep.k=[16, 32]", "text.max_tokens=60000", "train.tokens=100000")
CASES = {
    "toy": ("run", "toy", (), ()),
    "demo": ("run", "demo", (), SMALL),
    "sweep": ("sweep", "demo", SWEEP, ()),
    "transcoder": ("run", "transcoder", SMALL, ()),
    "crosscoder": ("run", "crosscoder", SMALL, ()),
}
"""By name: the command, its configuration, what is set always, and what is set with ``--quick``."""
OF_THE_RUN = re.compile(r"/checkpoints/|/commits/|(^|/)run\.json$")
ADDRESS = re.compile(r"""(?<=[-"/])[0-9a-f]{12}(?![0-9a-f])""")
"""After a name, or alone; the twelve digits of 0.123456789012 are none."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="the demo with fewer tokens")
    parser.add_argument("--folder", help="where results are kept, and those that are there already are taken as they are")
    options = parser.parse_args()
    n_differing = 0
    with _folder(options.folder) as folder:
        before = Path(folder, "before")
        check_out(options.commit, before)
        for case in options.cases:
            results = [Path(folder, case, side) for side in ("before", "after")]
            for tree, storage in zip((before, ROOT), results, strict=True):
                _run(tree, case, storage, options.quick)
            differing = list(differences(*results))
            n_differing += len(differing)
            print(f"{case}: {len(files(results[1]))} files, {len(differing)} differ", flush=True)
            for told in differing:
                print(told, flush=True)
    raise SystemExit(min(n_differing, 1))


@contextmanager
def _folder(named: str | None) -> Iterator[str]:
    if named is None:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    else:
        Path(named).mkdir(parents=True, exist_ok=True)
        yield named


def check_out(commit: str, to: Path) -> None:
    """The commit's files, without its history."""
    to.mkdir(exist_ok=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", to], input=archive, check=True)


def _run(tree: Path, case: str, storage: Path, quick: bool) -> None:
    verb, config, always, if_quick = CASES[case]
    overrides = [part for one in (*always, *(if_quick if quick else ())) for part in ("--set", one)]
    command = [sys.executable, "-m", "flows.cli", verb, f"configs/{config}.yaml", "--storage", str(storage), *overrides]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} in {tree} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def differences(before: Path, after: Path) -> Iterator[str]:
    """What differs between two storages, a paragraph a file."""
    old, new = files(before), files(after)
    yield from (f"  {name}: only before" for name in sorted(old.keys() - new.keys()))
    yield from (f"  {name}: only after" for name in sorted(new.keys() - old.keys()))
    for name in sorted(old.keys() & new.keys()):
        if _content(old[name]) != _content(new[name]):
            yield f"  {name}: {_told(old[name], new[name])}"


def files(storage: Path) -> dict[str, Path]:
    """The results in a storage, by path without addresses; of a sweep's members, which then share a path, by content."""
    found = {path: path.relative_to(storage).as_posix() for path in storage.rglob("*") if path.is_file()}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((path for path, name in found.items() if not OF_THE_RUN.search(name)), key=Path.read_bytes):
        by_name[ADDRESS.sub("*", found[path])].append(path)
    return {f"{name} ({n})" if n else name: path for name, paths in by_name.items() for n, path in enumerate(paths)}


def _content(path: Path) -> bytes | str:
    data = path.read_bytes()
    return ADDRESS.sub("*", data.decode()) if path.suffix in (".json", ".js", ".html") else data


def _told(old: Path, new: Path) -> str:
    if old.suffix == ".json":
        lines = [json.dumps(json.loads(_content(path)), indent=1, sort_keys=True).splitlines() for path in (old, new)]
        changed = [line for line in difflib.unified_diff(*lines, n=0, lineterm="") if line[:3] not in ("---", "+++")]
        return "\n      ".join(["other lines", *changed[:20]])
    if old.suffix == ".parquet":
        tables = [pq.read_table(path) for path in (old, new)]
        columns = list(dict.fromkeys(name for table in tables for name in table.column_names))
        other = [name for name in columns if any(name not in t.column_names for t in tables) or not _same(name, *tables)]
        return f"other columns: {', '.join(other)}" if other else "equal columns, other metadata or encoding"
    return f"other content, {old.stat().st_size} bytes before and {new.stat().st_size} after"


def _same(name: str, *tables: "pq.Table") -> bool:
    first, second = (table[name].combine_chunks() for table in tables)
    return bool(first.equals(second))


if __name__ == "__main__":
    main()
