"""Harvest with a durable write, in tokens/s, against the bare truncated forward pass and SAELens' cache runner.

All contenders read the same token ids with the same weights, batch, dtype and threads, in interleaved rounds. SAELens
has an environment of its own, made at first use (``--venv``); what its runner computes is counted, not what was asked.
In ``saemill`` shards go through the actor's own code in this process, in ``saemill on Ray`` through the whole stage.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.artifacts import read_json, require_manifest
from tasks.config import PipelineConfig, parse_config
from tasks.harvest.capture import Subject, harvest_shard
from tasks.harvest.commit import commit_shard
from tasks.harvest.on_ray import harvest
from tasks.harvest.shards import plan_shards
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import capture, prune_after
from tasks.lm.load import load_model, load_tokenizer
from tasks.progress import silent
from tasks.store.files import read_sequences
from tasks.store.objects import open_store
from tasks.text.tokenize import tokenize
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.rounds import Contender, interleaved, per_second, ratio, rows
from tests.conftest import s3_server

ROOT = Path(__file__).parents[2]
HOOK, MORE_HOOKS = "model.layers.8", ["model.layers.4", "model.layers.6"]
CONTEXT, BATCH = 256, 8
SAELENS = ("sae-lens==6.54.12", "torch==2.13.0")


@dataclass(frozen=True, slots=True)
class Work:
    """What all contenders are given."""

    folder: str
    model: str
    tokens: str
    shard_tokens: int
    threads: int
    venv: Path

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        return read_sequences(self.tokens, 0, sum(require_manifest(self.tokens)["n_sequences"].values()))

    def config(self, dtype: str, hooks: list[str] | None = None, **harvest: Any) -> PipelineConfig:
        given = {"hooks": [*(hooks or []), HOOK], "dtype": dtype, "shard_tokens": self.shard_tokens, **harvest}
        return parse_config(
            {
                "storage": self.folder,
                "model": {"name": self.model, "dtype": dtype},
                "text": {"source": "given", "context_length": CONTEXT},
                "harvest": {"batch_sequences": BATCH, **given},
                "train": {"hook": HOOK},
            }
        )


def main() -> None:
    options = arguments(__doc__, _more_arguments)
    tokens = options.tokens or (16_384 if options.quick else 196_608)
    rounds = options.rounds or (2 if options.quick else 5)
    where = environment()
    _make_venv(options.venv)
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as variables:
        os.environ.update(variables)
        work = _prepare(folder, tokens, options.threads, options.venv)
        found = interleaved(_contenders(work), rounds)
        n_tokens = work.ids.size
    table = [
        row
        for name in ("fp32", "bf16")
        for row in rows({k: v for k, v in found.items() if ("fp32" in k) == (name == "fp32")}, "tokens/s", f"bare {name}")
    ]
    where |= {
        "tokens": n_tokens,
        "threads": options.threads,
        "batch": BATCH,
        "context": CONTEXT,
        "load_after": os.getloadavg()[0],
    }
    finish(options.json, _checks(found), table, where)


def _more_arguments(parser: argparse.ArgumentParser) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--venv", type=Path, default=cache / "saemill" / SAELENS[0], help="SAELens' environment")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads of each contender")
    parser.add_argument("--tokens", type=int, help="tokens per round")
    parser.add_argument("--rounds", type=int, help="interleaved rounds")


def _make_venv(venv: Path) -> None:
    """SAELens with the very torch and transformers that the rivals run on; a finished environment is kept."""
    finished = venv / "finished"
    if finished.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    pip = [str(venv / "bin" / "pip"), "--quiet", "install", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *SAELENS], check=True)
    finished.touch()


def _prepare(folder: str, tokens: int, threads: int, venv: Path) -> Work:
    """Weights as a folder that both libraries load, and packed token ids."""
    import s3fs

    s3fs.S3FileSystem().mkdir("lake")
    model = f"{folder}/model"
    source = ModelConfig(dtype="float32")
    load_model(source).save_pretrained(model)
    load_tokenizer(source).save_pretrained(model)
    batch = BATCH * CONTEXT  # shards and SAELens' buffers are whole batches
    text = {"source": str(ROOT / "configs/data/sotu.parquet"), "context_length": CONTEXT, "max_tokens": tokens + batch}
    directory = f"{folder}/tokens/bench-{'a' * 12}"
    tokenize(parse_config({"storage": folder, "model": {"name": model}, "text": text}), directory, silent)
    work = Work(folder, model, directory, min(32_768, max(1, tokens // 4 // batch) * batch), threads, venv)
    np.save(f"{folder}/ids.npy", work.ids)
    return work


def _contenders(work: Work) -> dict[str, Contender]:
    found: dict[str, Contender] = {}
    for dtype, name in (("float32", "fp32"), ("bfloat16", "bf16")):
        found |= {
            f"bare {name}": _bare(work, dtype),
            f"saemill {name}": _in_process(work, work.config(dtype), work.folder),
            f"saemill on Ray {name}": _on_ray(work, work.config(dtype, actors=1, cpus_per_actor=work.threads)),
            f"SAELens {name}": _saelens(work, dtype),
        }
    return found | {
        "saemill bf16 to S3": _in_process(work, work.config("bfloat16"), "s3://lake"),
        "saemill bf16, 3 hooks": _in_process(work, work.config("bfloat16", MORE_HOOKS), work.folder),
        "1 actor of 1 thread": _on_ray(work, work.config("bfloat16", actors=1, cpus_per_actor=1)),
        "2 actors of 1 thread": _on_ray(work, work.config("bfloat16", actors=2, cpus_per_actor=1)),
    }


def _checks(found: dict[str, list[float]]) -> dict[str, float]:
    checks = {}
    for name in ("fp32", "bf16"):
        checks[f"harvest_vs_bare_{name}"] = ratio(found[f"saemill {name}"], found[f"bare {name}"])
        checks[f"harvest_vs_saelens_{name}"] = ratio(found[f"saemill {name}"], found[f"SAELens {name}"])
        checks[f"harvest_on_ray_vs_bare_{name}"] = ratio(found[f"saemill on Ray {name}"], found[f"bare {name}"])
    return checks | {
        "harvest_s3_vs_disk": ratio(found["saemill bf16 to S3"], found["saemill bf16"]),
        # What the second and the third hook cost together.
        "extra_hook_cost": ratio(found["saemill bf16"], found["saemill bf16, 3 hooks"]) - 1,
        "two_actors_vs_one": ratio(found["2 actors of 1 thread"], found["1 actor of 1 thread"]),
    }


def _bare(work: Work, dtype: str) -> Contender:
    """transformers alone: the model without the layers behind the hook, over the same ids, nothing kept."""
    model = load_model(work.config(dtype).model)
    model.model.layers = model.model.layers[: int(HOOK.rpartition(".")[2]) + 1]
    model.model.norm = torch.nn.Identity()
    batches = [torch.from_numpy(ids) for ids in np.split(work.ids.astype(np.int64), range(BATCH, len(work.ids), BATCH))]

    with torch.no_grad():
        model.model(input_ids=batches[0], use_cache=False)  # sets up kernels and memory, untimed, as for all contenders

    def forward() -> None:
        torch.set_num_threads(work.threads)
        with torch.no_grad():
            for batch in batches:
                model.model(input_ids=batch, use_cache=False)

    return lambda: per_second(work.ids.size, forward)


def _in_process(work: Work, config: PipelineConfig, root: str) -> Contender:
    """Shard after shard as an actor does it: one in the forward pass while the one before is encoded and written."""
    model = load_model(config.model)
    prune_after(model, config.harvest.hooks)
    capture(model, config.harvest.hooks, torch.from_numpy(work.ids[:BATCH].astype(np.int64)))
    read = require_manifest(work.tokens)
    subject = Subject(model, config.model.label, "", read["special_token_ids"])
    shards = plan_shards(read["n_sequences"], CONTEXT, config.harvest.shard_tokens)

    def harvest_all(out: str) -> None:
        store, forward = open_store(out), threading.Lock()

        def one(shard: Any) -> None:
            ids = read_sequences(work.tokens, shard.first_sequence, shard.n_sequences)
            with forward:
                torch.set_num_threads(work.threads)
                hooks = harvest_shard(subject, config.harvest, "a" * 12, shard, ids, lambda _: None)
            commit_shard(store, shard, hooks, config.harvest.row_group_rows)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, shards))

    return lambda: _to_new(root, lambda out: per_second(work.ids.size, lambda: harvest_all(out)))


def _on_ray(work: Work, config: PipelineConfig) -> Contender:
    """The whole stage; its own figure, which counts from the moment the first actor has its model."""

    def run(out: str) -> float:
        harvest(config, work.tokens, out, silent)
        return float((read_json(out, "run.json") or {})["tokens_per_second"])

    return lambda: _to_new(work.folder, run)


def _to_new(root: str, run: Callable[[str], float]) -> float:
    out = f"{root}/activations/bench-{uuid.uuid4().hex[:12]}"
    try:
        return run(out)
    finally:
        if not out.startswith("s3://"):
            shutil.rmtree(out, ignore_errors=True)


def _saelens(work: Work, dtype: str) -> Contender:
    """Its runner in its own process; its files are not synced to the disk, ours are."""
    width = work.config(dtype)
    settings = {
        "model": work.model,
        "ids": f"{work.folder}/ids.npy",
        "hook": HOOK,
        "dtype": dtype,
        "d-in": load_model(width.model).config.hidden_size,
        "batch": BATCH,
        "threads": work.threads,
        "buffer-tokens": work.shard_tokens // (BATCH * CONTEXT) * BATCH * CONTEXT,
    }
    command = [str(work.venv / "bin" / "python"), str(ROOT / "tests/benchmarks/saelens_cache.py")]
    command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]

    def run(out: str) -> float:
        offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": f"{work.folder}/hf"}
        done = subprocess.run([*command, "--out", out], env=offline, stdout=subprocess.PIPE, text=True, check=True)
        said = json.loads(done.stdout.splitlines()[-1])
        assert said["stored"] <= said["tokens"], "it cannot store what it did not compute"
        return float(said["tokens"] / said["seconds"])

    return lambda: _to_new(work.folder, run)


if __name__ == "__main__":
    main()
