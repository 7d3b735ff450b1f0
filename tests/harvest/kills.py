"""Real `saemill harvest` commands of a tiny model, whose processes can be killed, and what must hold afterwards."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flows.addresses import Addresses, addresses
from flows.config import PipelineConfig, load_config
from tasks.activations.reader import Split
from tasks.harvest.verify import verify
from tasks.progress import silent
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tests.kills import commands
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
class Command(commands.Command):
    """`saemill harvest` of a configuration into a storage of its own, which notes each forward pass of a shard."""

    config_path: Path
    storage: str
    folder: Path
    settings: dict[str, object] = field(default_factory=dict)
    _kept: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        overrides = [part for name, value in self.settings.items() for part in ("--set", f"{name}={value}")]
        harvest = ["harvest", str(self.config_path), "--storage", self.storage, *overrides]
        return ["tests.harvest.kill_points", str(self.folder), *harvest]

    @property
    def config(self) -> PipelineConfig:
        return load_config(self.config_path, storage=self.storage)

    @cached_property
    def at(self) -> Addresses:
        return addresses(self.config)

    @property
    def out(self) -> ObjectStore:
        return open_store(self.at.activations)

    @property
    def pool(self) -> ObjectStore:
        return open_store(self.at.shards)

    def commits(self) -> dict[str, tuple[bytes, float]]:
        """Bytes and time of each commit record."""
        return {info.key: (self.pool.get(info.key), info.modified) for info in self.pool.list("commits/")}

    def begun(self) -> int:
        """Grows whenever a forward pass begins or a shard is stored."""
        return super().begun() + sum(1 for _ in self.pool.list("commits/"))

    def counts(self) -> dict[str, int]:
        return {"shards": len(self.commits()), "forward_passes": len(self.noted())}

    def result(self) -> list[bytes]:
        return [self.out.get("manifest.json")]

    def require_kept(self) -> None:
        """Commit records that were there are the very same."""
        now = self.commits()
        assert {key: now[key] for key in self._kept} == self._kept, "a commit record was written twice"
        self._kept = now

    def require_undisturbed(self, undisturbed: Self) -> None:
        """The manifest is an undisturbed run's, what it names is whole, no row is twice, no committed shard was redone."""
        super().require_undisturbed(undisturbed)
        assert verify(self.out.uri, silent).findings == []
        for hook in HOOKS:
            for split in ("train", "eval"):
                places = [place for rows in _shards(self.out.uri, hook, split) for place in rows]
                assert len(set(places)) == len(places) > 0
        assert self.recomputed() == [], "computed after their commit"

    def recomputed(self) -> list[str]:
        """Shards whose forward pass began after they had been committed."""
        committed = {key.removeprefix("commits/").removesuffix(".json"): at for key, (_, at) in self.commits().items()}
        return [one["shard"] for one in self.noted() if one["began"] > committed[one["shard"]] + self._clock()]

    def _clock(self) -> float:
        """Seconds by which a forward pass may seem to begin late: S3 tells whole seconds, and of two racing commands one
        may commit between the other's last look and its first batch."""
        return 1.0 if self.storage.startswith("s3://") else 0.05


def _shards(uri: str, hook: str, split: Any) -> list[list[tuple[int, int]]]:
    stored = Split(uri, hook, split)
    rows = [stored.shard(i) for i in range(len(stored.shards))]
    return [list(zip(r.sequence.tolist(), r.position.tolist(), strict=True)) for r in rows]
