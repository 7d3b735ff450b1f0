"""Two stretches of a real corpus, one after the other in time, other text beside, and SAEs trained on them; all is kept."""

import argparse
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from flows.config import load_config
from tasks.activations.multi_hook import AnySplit, open_split
from tasks.activations.schema import to_float32
from tasks.activations.writer import Rows
from tasks.gates.measure import measure
from tasks.gates.rows import gate_rows
from tasks.gates.sums import BlockSums
from tasks.progress import silent
from tasks.sae import load
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest, require_manifest
from tasks.text.stored import read_sequences
from tasks.train.finish import close
from tasks.train.worker import Worker
from tests.benchmarks import CACHE, ROOT
from tests.benchmarks.command_line import ran
from tests.composed import run_settings
from tests.stored import store_hooks

DEMO = str(ROOT / "configs/demo.yaml")
HOOK = "model.layers.8"
FROM = 1900
"""The second stretch begins with this year: of the demo's 26 addresses 10 come before it, 16 from it on."""
_SHARD_ROWS = 32_768


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where things are kept, and what is there already."""
    parser.add_argument("--cache", type=Path, default=CACHE / "operations", help="where activations and SAEs are kept")
    parser.add_argument("--runs", help="storage with the demo's activations, in place of those that are harvested here")


def demo(options: argparse.Namespace) -> dict[str, str]:
    """The URIs of the demo's tokens and activations, made where they are not there yet."""
    found: dict[str, str] = ran("harvest", DEMO, options.runs or str(options.cache / "runs"))
    return found


def stretch(cache: Path, harvested: dict[str, str], name: str, first: int, last: int) -> str:
    """The activations of the demo's addresses of some years, as a directory of their own."""
    out = str(cache / "activations" / f"{name}-{first:04d}{last:04d}0000")
    if read_manifest(out) is None:
        wanted = np.array([first <= year <= last for year in _years(harvested["tokens"])])
        splits = [_rows_of(harvested, split, wanted) for split in ("train", "eval")]
        # Of a hook without held-out addresses there is nothing to be measured, and nothing is: any row stands there.
        train, held_out = splits[0], splits[1] or splits[0][:1]
        store_hooks(out, {HOOK: (train, held_out)}, row_group_rows=4096, stage="activations")
    return out


def source_code(cache: Path, tokens: int) -> str:
    """Activations of Python's own standard library: text in another language."""
    path = cache / "source-code.parquet"
    if not path.exists():
        # Small ones, so that a few thousand tokens are of several documents, some of which are held out.
        files = [file for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")) if file.stat().st_size < 8000]
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [file.read_text(errors="replace") for file in files]}), path)
    settings = [f"text.source={path}", "text.title_columns=[]", f"text.max_tokens={tokens}", "text.eval_fraction=0.2"]
    return str(ran("harvest", DEMO, str(cache / "runs"), settings)["activations"])


def trained(cache: Path, name: str, rows: str, settings: Iterable[str]) -> str:
    """The URI of an SAE, trained where it is not there yet as a worker of the Ray Train job would train it."""
    out = str(cache / "saes" / name)
    if read_manifest(out) is None:
        config = load_config(DEMO, ["train.workers=1", *settings])
        worker = Worker(run_settings(config), rows, out, OneProcess())
        close(worker.config, rows, out, worker.finish(worker.train()), {})
    return out


def held_out(rows: str, sae: str, most: int) -> BlockSums:
    """What an SAE comes to on held-out rows."""
    return measure(load(sae), gate_rows(rows, (sae,), most), silent)


def _years(tokens: str) -> list[int]:
    """Of each document, by its title."""
    titles = pq.read_table(f"{tokens}/documents.parquet")["title"].to_pylist()
    return [int(re.findall(r"\d{4}$", title)[0]) for title in titles]


def _rows_of(harvested: dict[str, str], name: str, wanted: npt.NDArray[np.bool_]) -> list[Rows]:
    """The rows of a split whose documents are wanted, in shards."""
    split: AnySplit = open_split(harvested["activations"], [HOOK], name)
    n = require_manifest(harvested["tokens"])["n_sequences"]
    document = read_sequences(harvested["tokens"], 0, n["train"] + n["eval"], "document")
    found: list[dict[str, Any]] = []
    for index in range(len(split.shards)):
        rows = split.shard(index)
        kept = wanted[document[rows.sequence, rows.position]]
        names = ("activation", "token_id", "sequence", "position")
        found.append({part: getattr(rows, part)[kept] for part in names})
    whole = {part: np.concatenate([shard[part] for shard in found]) for part in found[0]}
    whole["activation"] = to_float32(whole["activation"], split.dtype)
    starts = range(0, len(whole["sequence"]), _SHARD_ROWS)
    return [Rows(**{part: values[start : start + _SHARD_ROWS] for part, values in whole.items()}) for start in starts]
