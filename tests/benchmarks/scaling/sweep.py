"""Eight SAEs from one stream of the demo's activations, against eight runs of the same Ray job, each on all workers.

``sweep_vs_separate`` is the wall time of the sweep over that of the eight runs, one after the other, cluster and harvest
being there before both. ``sweep_weights_equal`` is the share of the sweep's SAEs whose files are, byte by byte, those of a
run of that SAE on one worker alone.
"""

import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

import torch

from flows.addresses import addresses
from flows.config import PipelineConfig, load_config
from tasks.progress import silent
from tasks.ray_cluster import connect
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_json
from tasks.storage.objects import open_store
from tasks.train.sweep.ray_sweep import train_sweep
from tasks.train.worker import Worker
from tests.benchmarks import ROOT
from tests.benchmarks.command_line import harvested
from tests.benchmarks.harness import arguments, environment, finish
from tests.composed import members, run_of, run_settings, targets, train

GRID = ["sweep.d_sae=[1152, 2304, 3456, 4608]", "sweep.k=[16, 32]"]
QUICK_GRID = ["sweep.d_sae=[288, 576]", "sweep.k=[4, 8]"]


def main() -> None:
    options = arguments(__doc__, _add)
    where = environment()
    with tempfile.TemporaryDirectory() as folder:
        settings, grid = [f"train.tokens={20_000 if options.quick else options.tokens}"], GRID
        if options.quick:
            settings, grid = [*settings, "text.max_tokens=30000", "train.batch_tokens=256"], QUICK_GRID
        activations = options.activations or harvested("configs/demo.yaml", folder, settings)
        config = load_config(ROOT / "configs/demo.yaml", [*settings, *grid], folder)
        connect(config.ray)
        train(_warm_up(config), activations, f"{folder}/warm-{'0' * 12}", silent)  # compiles kernels, imports everywhere
        found = members(config)
        swept = {member.label: f"{folder}/swept/{i}" for i, member in enumerate(found)}
        goals = targets(config, found, list(swept.values()))
        sweep_seconds = _seconds(lambda: train_sweep(run_settings(config), goals, activations, f"{folder}/sweep", silent))
        runs = {member.label: run_of(config, member) for member in found}
        separate = {
            label: _separate(run, f"{folder}/separate/{i}", activations) for i, (label, run) in enumerate(runs.items())
        }
        equal = {label: _equal(run, swept[label], activations, folder) for label, run in runs.items()}
    checks = {
        "sweep_seconds": sweep_seconds,
        "separate_seconds": sum(separate.values()),
        "sweep_vs_separate": sweep_seconds / sum(separate.values()),
        "sweep_weights_equal": sum(equal.values()) / len(equal),
    }
    rows = [{"SAE": label, "alone, s": separate[label], "equal": equal[label]} for label in separate]
    finish(options.json, checks, rows, where | {"tokens": config.train.tokens, "workers": config.train.workers})


def _add(parser: ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=500_000, help="rows that each SAE is trained on")
    parser.add_argument("--activations", help="the demo's activations, where they are harvested already")


def _warm_up(config: PipelineConfig) -> PipelineConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"tokens": 4 * config.train.batch_tokens})})


def _separate(config: PipelineConfig, out: str, activations: str) -> float:
    return _seconds(lambda: train(config, activations, out, silent))


def _equal(config: PipelineConfig, swept: str, activations: str, folder: str) -> bool:
    """Whether one worker by itself writes the same SAE, with as many threads as a worker of the sweep has."""
    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    worker = Worker(run_settings(config), activations, f"{folder}/alone/{addresses(config).sae[-12:]}", OneProcess())
    worker.finish(worker.train())
    assert read_json(swept, "manifest.json") is not None, f"{swept} did not end"
    names = ("sae.safetensors", "curve.parquet")
    return all(open_store(worker.out).get(name) == open_store(swept).get(name) for name in names)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
