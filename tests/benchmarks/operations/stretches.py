"""Activations of stretches of a real corpus and of other text, and SAEs trained on them in this process; all kept."""

import sysconfig
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from flows.config import load_config
from tasks.gates.measure import measure
from tasks.gates.rows import gate_rows
from tasks.gates.sums import BlockSums
from tasks.progress import silent
from tasks.sae import load
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest
from tasks.train.finish import close
from tasks.train.worker import Worker
from tests.benchmarks import ROOT
from tests.benchmarks.command_line import harvested
from tests.composed import run_settings

DEMO = str(ROOT / "configs/demo.yaml")
HOOK = "model.layers.4"


def speeches(cache: Path, first: int, last: int) -> Path:
    """The State of the Union addresses of some years as a corpus of their own."""
    path = cache / f"years-{first}-{last}.parquet"
    if not path.exists():
        table = pq.read_table(ROOT / "configs/data/sotu.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter((pc.field("year") >= first) & (pc.field("year") <= last)), path)
    return path


def source_code(cache: Path) -> Path:
    """Python's own standard library: text in another language."""
    path = cache / "source-code.parquet"
    if not path.exists():
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [file.read_text(errors="replace") for file in files]}), path)
    return path


def activations(cache: Path, corpus: Path, tokens: int) -> str:
    """Those of a corpus at the hook, harvested where they are not there yet."""
    settings = [f"text.source={corpus}", "text.title_columns=[]", f"text.max_tokens={tokens}", f"harvest.hooks=[{HOOK}]"]
    return harvested(DEMO, str(cache / "runs"), settings)


def trained(cache: Path, name: str, rows: str, settings: Iterable[str]) -> str:
    """The URI of an SAE, trained where it is not there yet as a worker of the Ray Train job would train it."""
    out = str(cache / "saes" / name)
    if read_manifest(out) is None:
        config = load_config(DEMO, [f"harvest.hooks=[{HOOK}]", "train.workers=1", *settings])
        worker = Worker(run_settings(config), rows, out, OneProcess())
        close(worker.config, rows, out, worker.finish(worker.train()), {})
    return out


def held_out(rows: str, sae: str, most: int) -> BlockSums:
    """What an SAE comes to on held-out rows."""
    with torch.inference_mode():
        return measure(load(sae), gate_rows(rows, (sae,), most), silent)
