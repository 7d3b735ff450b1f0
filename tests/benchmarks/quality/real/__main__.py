"""SAEs on a language model's activations, ours with all defaults beside the peers' best: FVU, L0 and dead on held-out rows.

    python -m tests.benchmarks.quality.real [--all] [--json FILE] [--cache DIR]

SmolLM2-135M-Instruct after layer 8, the State of the Union addresses, context 256 without position 0: a million tokens to
train on, in one epoch, and 102,400 held out; d_sae 4608, k 32, batches of 1024. Everyone sees the same batches in the same
order. A peer is given three learning rates, with a warm-up over 5% of the run, a decay over its last 20% and, for SAELens, a
window for dead latents of 100 steps and its input scale, and once what it does where nothing is said. Its results take
minutes each; they are recorded in ``peers/recorded.json``, and measured again with ``--fresh``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flows.config import PipelineConfig, load_config
from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.reader import Split, read_rows
from tasks.activations.tensors import as_tensor, from_stored
from tasks.sae import load
from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import OneProcess
from tasks.score.baselines import (
    affordable_rows,
    component_error,
    dictionary_error,
    fit_training_rows,
    principal_components,
)
from tasks.storage.artifacts import identity
from tasks.train.curve import CurveRow
from tasks.train.worker import Worker
from tests.benchmarks import CACHE, ROOT
from tests.benchmarks.command_line import harvested
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.peers.recorded import recorded
from tests.benchmarks.peers.venv import PEERS as PEER_VENVS
from tests.benchmarks.peers.venv import make_venv
from tests.benchmarks.quality.real.scores import deviation, scores, usual_rows
from tests.composed import run_settings

HOOK = "model.layers.8"
TOKENS, HELD_OUT, TEXT_TOKENS = 1_000_000, 102_400, 1_125_000
PEERS = {"sparsify": ("sparsify", "topk"), "saelens": ("saelens", "topk"), "saelens-batchtopk": ("saelens", "batchtopk")}
DEFAULT = SAEConfig().arch
LEARNING_RATES = ("default", "4e-4", "1e-3", "2e-3")
DEAD_WINDOW = 100


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where = environment() | {"threads": torch.get_num_threads()}
    uri = options.activations or harvested("configs/demo.yaml", str(options.cache), [f"text.max_tokens={TEXT_TOKENS}"])
    config = load_config(ROOT / "configs/demo.yaml")
    train, held_out = row_files(config, uri, options.cache, options.tokens)
    rows = from_stored(as_tensor(np.load(held_out)), "bfloat16")[: 10_000 if options.quick else HELD_OUT]
    table = baselines(uri, rows, config.sae.k) if options.baselines else []
    for arch in NAMES if options.all else options.archs:
        table.append(ours(uri, arch, options, rows))
        print(table[-1], flush=True)
    for name, lr in product(options.peers, options.lrs):
        found = peer(name, lr, options, {"train": train, "held_out": held_out, "held_out_rows": len(rows)}, uri)
        if found is not None:
            table.append(found)
            print(found, flush=True)
    print(facts(rows))
    finish(options.json, checks_of(table), table, where | facts(rows))


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, default=CACHE / "real", help="where activations are kept")
    parser.add_argument("--activations", help="others of the same hook, in place of those that the benchmark harvests")
    parser.add_argument("--tokens", type=int, default=100_000 if "--quick" in sys.argv else TOKENS)
    parser.add_argument("--archs", nargs="*", choices=NAMES, default=[DEFAULT, "topk"], help="ours")
    parser.add_argument("--all", action="store_true", help="all of ours")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings of ours")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--lrs", nargs="*", default=list(LEARNING_RATES), help="peers' learning rates, or default")
    parser.add_argument("--recorded", action="store_true", help="train no peer: take what is recorded")
    parser.add_argument("--fresh", action="store_true", help="train peers anew")
    parser.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True)


def row_files(config: PipelineConfig, uri: str, cache: Path, tokens: int) -> tuple[str, str]:
    """The bits of the training rows, in the order of our batches, and of the held-out rows, for the peers."""
    batch = config.train.batch_tokens
    reader = LaneReader(uri, HOOK, batch_rows=batch, lanes=config.train.lanes, seed=config.train.seed)
    n_steps = -(-tokens // batch)
    if reader.split.rows < n_steps * batch:
        raise SystemExit(f"{uri} has {reader.split.rows} rows to train on, fewer than one epoch takes ({n_steps * batch}).")
    train, held_out = (cache / f"{name}-{identity(uri)}-{n_steps}.npy" for name in ("train", "held-out"))
    if not train.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = train.with_suffix(".part")
        out = np.lib.format.open_memmap(unfinished, "w+", np.uint16, (n_steps * batch, reader.split.d_in))
        for step, rows in enumerate(reader.batches(0, n_steps)):
            out[step * batch : (step + 1) * batch] = rows
        out.flush()
        np.save(held_out, read_rows(uri, HOOK, "eval", HELD_OUT))
        unfinished.rename(train)
    return str(train), str(held_out)


def facts(rows: Tensor) -> dict[str, float]:
    """How many of the held-out rows have a very high norm, and how much of the variance is theirs."""
    usual, mean = usual_rows(rows), rows.double().mean(0)
    of_usual = float((rows[usual].double() - mean).square().sum())
    return {
        "held_out_rows": len(rows),
        "high_norm_rows": 1 - float(usual.double().mean()),
        "high_norm_variance": 1 - of_usual / deviation(rows),
    }


def ours(uri: str, arch: str, options: argparse.Namespace, rows: Tensor) -> dict[str, Any]:
    """One of our SAEs, trained in this process as a worker of the Ray Train job would train it."""
    overrides = [f"train.tokens={options.tokens}", f"sae.arch={arch}", *options.set]
    config = load_config(ROOT / "configs/demo.yaml", overrides)
    with tempfile.TemporaryDirectory() as out:
        worker = Worker(run_settings(config), uri, out, OneProcess())
        began = time.monotonic()
        run = worker.train(lambda run: _tell(arch, run.curve[-1], worker.plan.n_steps))
        seconds = time.monotonic() - began
        worker.finish(run)
        sae = load(out)
    name = " ".join(["saemill", arch, *options.set])
    return _row(name, {"lr": worker.plan.lr, "seconds": seconds, **scores(sae.encode, sae.decode, rows)})


def _tell(arch: str, row: CurveRow, n_steps: int) -> None:
    if row.step * 10 // n_steps > (row.step - 1) * 10 // n_steps:
        print(f"{arch} step {row.step} of {n_steps}: fvu {row.fvu:.4f}, l0 {row.l0:.1f}", file=sys.stderr, flush=True)


def peer(name: str, lr: str, options: argparse.Namespace, data: dict[str, Any], uri: str) -> dict[str, Any] | None:
    """One SAE of a peer: trained, or as it was when it was trained with these settings before."""
    library, arch = PEERS[name]
    settings = {
        "arch": arch,
        **{"d_in": 576, "d_sae": 4608, "k": 32, "batch": 1024, "n_steps": -(-options.tokens // 1024)},
        "bf16": library == "sparsify",  # as its own forward pass does it; SAELens' default is float32
        "lr": None if lr == "default" else float(lr),
        "dead_window": DEAD_WINDOW if library == "saelens" and lr != "default" else None,
    }

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "found.json")
            asked = {"library": library, "settings": settings, "threads": torch.get_num_threads(), "out": str(out), **data}
            script = str(Path(__file__).with_name("peer.py"))
            beside = os.environ | {"PYTHONPATH": str(ROOT / "tests/benchmarks/step")}  # the trainers: saemill is not there
            subprocess.run([make_venv(library).python, script, json.dumps(asked)], check=True, env=beside)
            result: dict[str, Any] = json.loads(out.read_text())
        return result

    held_out = {"activations": identity(uri), "held_out_rows": data["held_out_rows"]}
    asked_for = {"benchmark": "real", "library": PEER_VENVS[library].version, "run": settings, **held_out}
    found = recorded(asked_for, None if options.recorded else measure, options.fresh)
    return None if found is None else _row(name, {"lr": lr, **found})


@torch.inference_mode()
def baselines(uri: str, rows: Tensor, k: int) -> list[dict[str, Any]]:
    """What costs no training: principal components, and training rows as the dictionary (the honest floor)."""
    fit = fit_training_rows(Split(uri, HOOK, "train"), n_directions=4608)
    usual = usual_rows(rows)
    parts = {"fvu": rows.double(), "fvu_usual": rows[usual].double()}
    found = []
    for components in (k, 4 * k):
        axes = principal_components(fit, components)
        fvus = {name: component_error(part - fit.mean, axes) / deviation(part) for name, part in parts.items()}
        found.append(_row(f"PCA {components}", fvus | {"l0": float(components)}))
    few = {name: part[: affordable_rows(k, rows.shape[1])] for name, part in parts.items()}
    fvus = {name: dictionary_error(part - fit.mean, fit.directions, k) / deviation(part) for name, part in few.items()}
    return [*found, _row("training rows as dictionary", fvus | {"l0": float(k)})]


def _row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"system": name, **{part: found.get(part, "") for part in ("lr", "fvu", "fvu_usual", "l0", "dead", "seconds")}}


def checks_of(table: list[dict[str, Any]]) -> dict[str, float]:
    """Our default beside the best of each peer that was measured, whatever its architecture."""
    mine = next((row for row in table if row["system"] == f"saemill {DEFAULT}"), None)
    if mine is None:
        return {}
    best: dict[str, float] = {}
    for row in table:
        library = PEERS.get(row["system"], ("", ""))[0]
        if library:
            best[library] = min(best.get(library, float("inf")), row["fvu"])
    return {f"real_fvu_vs_{library}": mine["fvu"] / fvu for library, fvu in best.items()} | {"real_dead": mine["dead"]}


if __name__ == "__main__":
    main()
