"""The peak of memory, and the time, that loading SmolLM2-135M takes: whole, and up to layer 8 of 30.

From the GGUF file of its package, and from a safetensors folder that is unpacked of it. Each load is in a process of its
own, on one thread, from a warm page cache. Memory is what is resident above what was before the load, mapped pages of files
included: of a folder in the precision that is asked for, transformers maps the weights and reads none before they are used.
Linux only.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from tasks.lm.config import ModelConfig
from tasks.lm.load import load_model, load_skeleton
from tests.benchmarks.harness import arguments, environment, finish, peak_bytes

HOOK = "model.layers.8"
ROUNDS = 3
DTYPES = ("float32", "bfloat16")
LOAD = "--load"


def main() -> None:
    if sys.argv[1:2] == [LOAD]:
        print(json.dumps(measured(ModelConfig(**json.loads(sys.argv[2])))))
        return
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        load_model(ModelConfig(dtype="bfloat16")).save_pretrained(folder)
        rounds = 1 if options.quick else ROUNDS
        found = [row(source, name, dtype, rounds) for source, name in sources(folder) for dtype in DTYPES]
    checks = {f"peak_of_{row['source']}_in_{row['dtype']}_vs_whole": row["peak of whole"] for row in found}
    finish(options.json, checks, found, environment())


def sources(folder: str) -> list[tuple[str, str]]:
    return [("gguf", ModelConfig().name), ("safetensors", folder)]


def row(source: str, name: str, dtype: str, rounds: int) -> dict[str, Any]:
    """Medians of one source's loads."""
    taken = {way: [in_a_process(name, dtype, way) for _ in range(rounds)] for way in ("off", "auto")}
    (whole, short), (whole_s, short_s) = (
        [median(load[figure] for load in taken[way]) for way in ("off", "auto")] for figure in ("mib", "seconds")
    )
    return {
        "source": source,
        "dtype": dtype,
        "whole, MiB": whole,
        "to layer 8, MiB": short,
        "peak of whole": short / whole,
        "whole, s": whole_s,
        "to layer 8, s": short_s,
    }


def in_a_process(name: str, dtype: str, truncate: str) -> dict[str, float]:
    """The figures of one load."""
    config = {"name": name, "dtype": dtype, "truncate": truncate}
    command = [sys.executable, "-m", "tests.benchmarks.harvest.loading", LOAD, json.dumps(config)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(config: ModelConfig) -> dict[str, float]:
    """Peak memory and time of a load in this process, once all code that it needs has been imported."""
    load_skeleton(config)
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = psutil.Process().memory_info().rss, time.perf_counter()
    load_model(config, hooks=[HOOK])
    return {"seconds": time.perf_counter() - began, "mib": (peak_bytes() - before) / 2**20}


if __name__ == "__main__":
    main()
