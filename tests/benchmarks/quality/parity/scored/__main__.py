"""SAEs that other libraries' own classes wrote to disk, scored and reported by saemill from the command line.

    python -m tests.benchmarks.quality.parity.scored [--quick] [--json FILE]

SAELens and sparsify train SAEs of several kinds in their own environments, on rows of low rank with noise and a mean, and
store them. ``saemill import``, ``score`` and ``report`` take each from there, with the rows as activations of one's own.
FVU and L0 must be those that the library's own encode and decode give of the same held-out rows, to 1e-6; the process ends
with 1 where one is not.
"""

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.activations.reader import read_rows
from tests.benchmarks.command_line import answered, harvested
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.peers.venv import PEERS, make_venv

LIBRARIES = ("saelens", "sparsify")
HOOK = "source"
D_IN, RANK, FIRES, NOISE = 64, 32, 0.15, 0.1
EVAL_FRACTION = 0.3
TOLERANCE = 1e-6


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where = environment()
    for library in options.only:
        make_venv(library)
    with contextlib.ExitStack() as stack:
        scratch = options.keep or stack.enter_context(tempfile.TemporaryDirectory())
        found = compared(Path(scratch).absolute(), options)
    worst = {part: max(row[f"{part} apart"] for row in found) for part in ("fvu", "l0")}
    finish(options.json, {f"scored_{part}_apart": value for part, value in worst.items()}, found, where)
    bad = [row for row in found if max(row["fvu apart"], row["l0 apart"]) > TOLERANCE]
    if bad:
        raise SystemExit(f"{len(bad)} of {len(found)} SAEs differ: {[(row['library'], row['sae']) for row in bad]}")


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=8_000, help="rows to train on and, three in ten of them, to score on")
    parser.add_argument("--steps", type=int, default=500, help="steps of 256 rows for which each SAE is trained")
    parser.add_argument("--only", choices=LIBRARIES, nargs="+", default=LIBRARIES, help="one of the libraries")
    parser.add_argument("--keep", metavar="DIR", help="a folder, empty or not there yet, that keeps what is made")


def compared(scratch: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each SAE."""
    n_rows, steps = (2_000, 100) if options.quick else (options.rows, options.steps)
    scratch.mkdir(parents=True, exist_ok=True)
    activations = own_activations(scratch, low_rank_rows(n_rows))
    splits = {name: scratch / f"{name}.npy" for name in ("train", "eval")}
    for name, path in splits.items():
        np.save(path, read_rows(activations, HOOK, name))
    found = []
    for library in options.only:
        for sae in stored_by(library, splits["train"], splits["eval"], scratch / library, steps):
            found.append(row_of(library, sae, activations))
            print(json.dumps(found[-1]), flush=True)
    return found


def low_rank_rows(n: int) -> npt.NDArray[np.float32]:
    """Rows of a few directions that are seldom active, with noise, around a mean that is longer than what varies."""
    rng = np.random.default_rng(0)
    active = (rng.random((n, RANK)) < FIRES) * rng.gamma(4, 0.25, (n, RANK))
    directions = rng.normal(size=(RANK, D_IN)) / D_IN**0.5
    mean = rng.normal(size=D_IN)
    rows: npt.NDArray[np.float64] = mean + active @ directions + NOISE * rng.normal(size=(n, D_IN))
    return rows.astype(np.float32)


def own_activations(scratch: Path, rows: npt.NDArray[np.float32]) -> str:
    """The URI of rows as ``saemill harvest`` takes them from a file."""
    source, config = scratch / "rows.npy", scratch / "rows.yaml"
    np.save(source, rows)
    config.write_text(f"activations:\n  source: {source}\n  eval_fraction: {EVAL_FRACTION}\n")
    return harvested(str(config), str(scratch / "runs"))


def stored_by(library: str, train: Path, held_out: Path, out: Path, steps: int) -> list[dict[str, Any]]:
    """What the library's own classes wrote, and what they make of the held-out rows."""
    out.mkdir()
    script = str(Path(__file__).with_name("peer.py"))
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    quiet.pop("PYTHONPATH", None)
    command = [PEERS[library].python, script, library, str(train), str(held_out), str(out), str(steps)]
    subprocess.run(command, check=True, env=quiet, cwd=out)
    found: list[dict[str, Any]] = json.loads((out / "found.json").read_text())
    return found


def row_of(library: str, theirs: dict[str, Any], activations: str) -> dict[str, Any]:
    """The three commands for one SAE, and their numbers beside the library's."""
    sae = f"{theirs['folder']} imported"
    imported = answered("import", theirs["folder"], "--format", library, "--out", sae)
    scored = answered("score", sae, activations)
    report = answered("report", sae, activations, scored["scores"])["report"]
    if f"imported from {library}" not in Path(report, "index.html").read_text():
        raise SystemExit(f"{report}/index.html does not say that {sae} was imported from {library}.")
    ours = {part: float(scored["summary"][part]) for part in ("fvu", "l0")}
    return {
        "library": PEERS[library].version,
        **{name: theirs[name] for name in ("sae", "stored by", "class")},
        "d_in": imported["d_in"],
        "d_sae": imported["d_sae"],
        **{
            name: value
            for part in ("fvu", "l0")
            for name, value in [
                (part, ours[part]),
                (f"their {part}", theirs[f"their {part}"]),
                (f"{part} apart", abs(ours[part] - theirs[f"their {part}"]) / theirs[f"their {part}"]),
            ]
        },
    }


if __name__ == "__main__":
    main()
