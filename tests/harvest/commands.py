"""Real `saemill harvest` commands of a tiny model, in processes that can be killed, and what must hold afterwards."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flows.addresses import addresses
from flows.config import PipelineConfig, load_config
from tasks.activations.reader import Split
from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tests.conftest import ROOT
from tests.harvest import kill_points
from tests.patience import PATIENCE_S
from tests.text.conftest import byte_tokenizer

HOOKS = ["model.layers.0", "model.layers.1.mlp:input"]


def write_config(folder: Path, characters: int = 5_000) -> Path:
    """A random Llama with a tokenizer of bytes, a corpus of random letters, and a configuration that harvests it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), bos_token="<bos>", eos_token="<eos>")
    tokenizer.save_pretrained(folder / "model")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 258}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1)).save_pretrained(folder / "model")
    letters = np.random.default_rng(0).integers(97, 123, characters, dtype=np.uint8).tobytes().decode()
    documents = [letters[i : i + 100] for i in range(0, characters, 100)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    settings = {
        "name": "tiny",
        "model": {"name": str(folder / "model"), "dtype": "float32"},
        "train": {"precision": "fp32"},  # named, so that no command asks the cluster's machines
        "text": {"source": str(folder / "corpus.jsonl"), "context_length": 16},
        "harvest": {"hooks": HOOKS, "dtype": "float32", "shard_tokens": 128, "row_group_rows": 64, "batch_sequences": 3},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@dataclass
class Command:
    """`saemill harvest` of a configuration into a storage of its own, given as often as it takes."""

    config_path: Path
    storage: str
    folder: Path
    """For kill points, and for what the command says."""
    settings: dict[str, object] = field(default_factory=dict)

    def start(self) -> psutil.Popen:
        """The command as a process; Python sees its kill points."""
        overrides = [part for name, value in self.settings.items() for part in ("--set", f"{name}={value}")]
        arguments = ["harvest", str(self.config_path), "--storage", self.storage, *overrides]
        environment = {**os.environ, **kill_points.environment(self.folder), "OMP_NUM_THREADS": "1"}
        with open(self.folder / "said", "a") as said:
            return psutil.Popen(
                [sys.executable, "-m", "tests.harvest.kill_points", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )

    def run(self) -> int:
        """Its exit code."""
        process = self.start()
        try:
            return int(process.wait(PATIENCE_S))
        finally:
            kill_tree(process)

    def arm(self, point: str) -> None:
        (self.folder / point).touch()

    def struck(self, point: str) -> int:
        """Processes that the point has ended."""
        return len(list(self.folder.glob(f"{point}.struck-*")))

    def said(self) -> str:
        return (self.folder / "said").read_text()

    @property
    def config(self) -> PipelineConfig:
        return load_config(self.config_path, storage=self.storage)

    @property
    def out(self) -> ObjectStore:
        return open_store(addresses(self.config).activations)

    @property
    def pool(self) -> ObjectStore:
        return open_store(addresses(self.config).shards)

    def manifest(self) -> bytes:
        return self.out.get("manifest.json")

    def commits(self) -> dict[str, tuple[bytes, float]]:
        """Bytes and time of each commit record."""
        return {info.key: (self.pool.get(info.key), info.modified) for info in self.pool.list("commits/")}

    def computed(self) -> list[dict[str, Any]]:
        """Every forward pass of a shard that was begun."""
        path = self.folder / "computed.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def require_exactly_once(self, undisturbed: bytes) -> None:
        """The manifest is an undisturbed run's, what it names is whole, no row is twice, no committed shard was redone."""
        assert self.manifest() == undisturbed
        assert verify(self.out.uri, silent).findings == []
        for hook in HOOKS:
            for split in ("train", "eval"):
                places = [place for rows in _shards(self.out.uri, hook, split) for place in rows]
                assert len(set(places)) == len(places) > 0
        late = self.recomputed()
        assert late == [], f"computed after their commit: {late}"

    def recomputed(self) -> list[str]:
        """Shards whose forward pass began after they had been committed."""
        committed = {key.removeprefix("commits/").removesuffix(".json"): at for key, (_, at) in self.commits().items()}
        return [one["shard"] for one in self.computed() if one["began"] > committed[one["shard"]] + self._clock()]

    def _clock(self) -> float:
        """Seconds by which a forward pass may seem to begin late: S3 tells whole seconds, and of two racing commands one
        may commit between the other's last look and its first batch."""
        return 1.0 if self.storage.startswith("s3://") else 0.05


def _shards(uri: str, hook: str, split: Any) -> list[list[tuple[int, int]]]:
    stored = Split(uri, hook, split)
    rows = [stored.shard(i) for i in range(len(stored.shards))]
    return [list(zip(r.sequence.tolist(), r.position.tolist(), strict=True)) for r in rows]


def kill_tree(process: psutil.Process) -> None:
    """kill -9 of a process and all of its descendants, the root first so that nothing cleans up."""
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [process, *process.children(recursive=True)]
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(tree, timeout=30)


def until(ready: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait for a condition."""
    import time

    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"it never came so far: {what}"
        time.sleep(0.002)
