"""The rivals of the harvest benchmark: each does the same work once and says its tokens per second."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch

from flows.config import PipelineConfig, parse_config
from tasks.harvest.pool.actor import Harvester, HarvestJob
from tasks.harvest.shards import planned_shards
from tasks.lm.load import load_model
from tasks.progress import silent
from tasks.storage.artifacts import read_json, require_manifest
from tasks.storage.objects import open_store
from tasks.text.stored import read_sequences
from tests.benchmarks import ROOT
from tests.benchmarks.rounds import Contender, per_second
from tests.composed import harvest, tokenize

HOOK, MORE_HOOKS = "model.layers.8", ["model.layers.4", "model.layers.6"]
CONTEXT, BATCH = 256, 8


@dataclass(frozen=True)
class Work:
    """What the rivals of one part are given: a model's folder, packed tokens, and how many threads they may use."""

    folder: str
    model: str
    tokens: str
    shard_tokens: int
    threads: int

    @cached_property
    def ids(self) -> npt.NDArray[np.int32]:
        """[n_sequences, CONTEXT] token ids."""
        return read_sequences(self.tokens, 0, sum(require_manifest(self.tokens)["n_sequences"].values()))

    def config(self, dtype: str, hooks: list[str] | None = None, **more: Any) -> PipelineConfig:
        """The settings of a harvest in ``dtype``, model and rows alike; ``more`` is for ``harvest``."""
        given = {"hooks": [*(hooks or []), HOOK], "dtype": dtype, "shard_tokens": self.shard_tokens}
        given |= {"batch_sequences": BATCH, "actors": 1, "cpus_per_actor": self.threads}
        return parse_config(
            {
                "storage": self.folder,
                "model": {"name": self.model, "dtype": dtype},
                "text": {"source": "given", "context_length": CONTEXT},
                "harvest": given | more,
                "train": {"hook": HOOK},
            }
        )

    def job(self, config: PipelineConfig, root: str) -> HarvestJob:
        """What an actor is given; its shards come to lie below ``root``."""
        return HarvestJob(
            settings=config.harvest,
            model=config.model,
            tokens=self.tokens,
            out=f"{root}/shards/bench-{'a' * 12}",
            context_length=CONTEXT,
            special_token_ids=require_manifest(self.tokens)["special_token_ids"],
            gpus=0.0,
        )


def work_of(folder: str, model: str, tokens: int, threads: int, shard_tokens: int = 32_768) -> Work:
    """Token ids packed from the demo's corpus, at most ``tokens``, in shards of whole batches."""
    directory = f"{folder}/tokens/n{tokens}-{'a' * 12}"
    text = {"source": str(ROOT / "configs/data/sotu.parquet"), "context_length": CONTEXT, "max_tokens": tokens}
    tokenize(parse_config({"storage": folder, "model": {"name": model}, "text": text}), directory, silent)
    batch = BATCH * CONTEXT
    return Work(folder, model, directory, min(shard_tokens, max(1, tokens // 4 // batch) * batch), threads)


def bare(work: Work, dtype: str) -> Contender:
    """transformers alone: the model without the layers behind the hook, over the same ids, nothing kept."""
    model = load_model(work.config(dtype).model)
    model.model.layers = model.model.layers[: int(HOOK.rpartition(".")[2]) + 1]
    model.model.norm = torch.nn.Identity()
    batches = [torch.from_numpy(ids) for ids in np.split(work.ids.astype(np.int64), range(BATCH, len(work.ids), BATCH))]

    def forward(given: list[torch.Tensor]) -> None:
        torch.set_num_threads(work.threads)
        with torch.inference_mode():
            for batch in given:
                model.model(input_ids=batch, use_cache=False)

    forward(batches[:1])  # sets up kernels and memory, untimed, as for all contenders
    return lambda: per_second(work.ids.size, lambda: forward(batches))


def in_process(work: Work, config: PipelineConfig, root: str) -> Contender:
    """The actor's own code in this process: what an actor costs, without Ray around it."""
    job = work.job(config, root)
    harvester = Harvester(job)
    shards = planned_shards(work.tokens, config.harvest.shard_tokens)

    def run(n_shards: int) -> float:
        given = shards[:n_shards]
        tokens = sum(shard.n_sequences for shard in given) * CONTEXT
        with _emptied(job.out), ThreadPoolExecutor(job.in_flight) as pool:
            return per_second(tokens, lambda: list(pool.map(lambda shard: harvester.harvest(shard, 1), given)))

    run(1)
    return lambda: run(len(shards))


def on_ray(work: Work, config: PipelineConfig) -> Contender:
    """The whole stage; its own figure, which counts from the moment the first actor has its model."""

    def run() -> float:
        shards, out = (f"{work.folder}/{kind}/ray-{'a' * 12}" for kind in ("shards", "activations"))
        with _emptied(shards), _emptied(out):
            try:
                harvest(config, work.tokens, shards, out, silent)
                return float((read_json(out, "run.json") or {})["tokens_per_second"])
            finally:
                if config.ray.address is None:
                    ray.shutdown()  # an idle cluster would take its share of the others' time

    return run


def saelens(work: Work, dtype: str, venv: Path) -> Contender:
    """Its runner in its own process; its files are not synced to the disk, ours are."""
    np.save(ids := f"{work.folder}/ids-{work.ids.size}.npy", work.ids)
    settings = {
        "model": work.model,
        "ids": ids,
        "hook": HOOK,
        "dtype": dtype,
        "d-in": load_model(work.config(dtype).model).config.hidden_size,
        "batch": BATCH,
        "threads": work.threads,
        "buffer-tokens": work.shard_tokens,
        "out": (out := f"{work.folder}/saelens"),
    }
    command = [str(venv / "bin" / "python"), str(Path(__file__).with_name("saelens.py"))]
    command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]

    def run() -> float:
        offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": f"{work.folder}/hf"}
        with _emptied(out):
            done = subprocess.run(command, env=offline, stdout=subprocess.PIPE, text=True, check=True)
        said = json.loads(done.stdout.splitlines()[-1])
        assert said["stored"] <= said["tokens"], "it cannot store what it did not compute"
        return float(said["tokens"] / said["seconds"])

    return run


@contextlib.contextmanager
def _emptied(uri: str) -> Iterator[None]:
    """Remove everything at a URI when the block ends."""
    try:
        yield
    finally:
        if uri.startswith("s3://"):
            store = open_store(uri)
            for info in list(store.list()):
                store.delete(info.key)
        else:
            shutil.rmtree(uri, ignore_errors=True)
