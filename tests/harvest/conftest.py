import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from flows.config import PipelineConfig, parse_config
from tasks.harvest.pool.actor import HarvestJob
from tasks.progress import Progress, silent
from tasks.storage.artifacts import write_manifest
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tests.composed import harvest, ingest

CONTEXT = 8
SPECIAL = 0


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random three-layer Llama, 16 wide."""
    return saved_llama(tmp_path_factory.mktemp("llama"), heads=2)


@pytest.fixture(scope="session")
def even_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random three-layer Llama whose heads two processes can share."""
    return saved_llama(tmp_path_factory.mktemp("even"), heads=4)


def saved_llama(folder: Path, heads: int) -> str:
    """The folder, with a random Llama in it, half of whose heads are of keys and values."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 50}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=heads, num_key_value_heads=heads // 2)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tokens_directory() -> Callable[[str], str]:
    """Write a tokens directory of 40 train and 6 eval sequences of 8 tokens, token 0 being special."""

    def write(root: str) -> str:
        uri = f"{root}/tokens/tiny-{'a' * 12}"
        ids = np.random.default_rng(0).integers(0, 50, (46, CONTEXT), dtype=np.int32)
        sink = pa.BufferOutputStream()
        hashes = [hashlib.blake2b(row.astype("<i4").tobytes(), digest_size=16).digest() for row in ids]
        columns: dict[str, Any] = {
            "sequence": np.arange(46),
            "hash": pa.array(hashes, pa.binary(16)),
            "split": ["train"] * 40 + ["eval"] * 6,
            "token_ids": pa.array(list(ids), pa.list_(pa.int32())),
        }
        pq.write_table(pa.table(columns), sink, row_group_size=10)
        open_store(uri).put("sequences.parquet", sink.getvalue())
        cut = {"n_sequences": {"train": 40, "eval": 6}, "segments": {"train": [27, 13], "eval": [6]}}
        write_manifest(uri, {**cut, "context_length": CONTEXT, "special_token_ids": [SPECIAL]})
        return uri

    return write


def tiny_config(model: str, storage: str, actors: int = 1) -> PipelineConfig:
    """A harvest of two hooks in shards of 4 sequences."""
    return parse_config(
        {
            "storage": storage,
            "model": {"name": model, "dtype": "float32"},
            "text": {"source": "unused.txt", "context_length": CONTEXT},
            "harvest": {
                "hooks": ["model.layers.0", "model.layers.1.mlp:input"],
                "dtype": "float32",
                "shard_tokens": 32,
                "row_group_rows": 16,
                "batch_sequences": 3,
                "actors": actors,
            },
        }
    )


def places(root: str) -> tuple[str, str]:
    """A pool of shards and an activations directory below a root."""
    return f"{root}/shards/tiny-{'c' * 12}", f"{root}/activations/tiny-{'b' * 12}"


def tiny_job(config: PipelineConfig, tokens: str, **settings: object) -> HarvestJob:
    """What an actor on CPUs is told of a configuration below its storage; ``settings`` change those of the harvest."""
    return HarvestJob(
        settings=config.harvest.model_copy(update=settings),
        model=config.model,
        tokens=tokens,
        out=places(config.storage)[0],
        context_length=CONTEXT,
        special_token_ids=[SPECIAL],
        gpus=0,
    )


@dataclass(frozen=True)
class Harvested:
    config: PipelineConfig
    tokens: str
    shards: str
    out: str
    heard: list[Progress]

    def copied(self, folder: Path) -> "Harvested":
        """The same below another root, with a pool of its own."""
        shutil.copytree(self.config.storage, folder, dirs_exist_ok=True)
        moved = [uri.replace(self.config.storage, str(folder)) for uri in (self.tokens, self.shards, self.out)]
        return Harvested(self.config, *moved, heard=[])


@pytest.fixture(scope="session")
def harvested(
    tiny_llama: str, tokens_directory: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> Harvested:
    """One undisturbed harvest, by two actors; tests that change it work on a copy."""
    config = tiny_config(tiny_llama, str(tmp_path_factory.mktemp("harvested")), actors=2)
    done = Harvested(config, tokens_directory(config.storage), *places(config.storage), heard=[])
    harvest(config, done.tokens, done.shards, done.out, done.heard.append)
    return done


@pytest.fixture
def lake(tmp_path: Path) -> Callable[[], ObjectStore]:
    """An activations directory of its own, ingested in four chunks of 64 rows."""

    def make() -> ObjectStore:
        np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(256, 5)).astype(np.float32))
        ingest(lake_config(tmp_path), out := f"{tmp_path}/activations/x-{'d' * 12}", silent)
        return open_store(out)

    return make


def lake_config(folder: Path) -> PipelineConfig:
    """Own activations of 256 rows in ``folder``."""
    source = {"source": str(folder / "rows.npy")}
    cut = {"shard_tokens": 64, "row_group_rows": 16}
    return parse_config({"storage": str(folder), "name": "x", "activations": source, "harvest": cut})
