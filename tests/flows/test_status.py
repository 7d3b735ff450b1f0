from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.addresses import Addresses
from flows.config import PipelineConfig, parse_config
from flows.status import StageStatus, describe_status, status_at
from tasks.harvest.shards import planned_shards
from tasks.storage.artifacts import write_manifest
from tasks.storage.objects import open_store


def places(root: Path) -> Addresses:
    return Addresses(**{name: str(root / name) for name in ("tokens", "activations", "shards", "sae", "scores", "report")})


def config() -> PipelineConfig:
    return parse_config(
        {"text": {"source": "x.txt"}, "harvest": {"shard_tokens": 640}, "train": {"tokens": 4096, "batch_tokens": 256}}
    )


def found(root: Path) -> dict[str, StageStatus]:
    return {stage.result: stage for stage in status_at(config(), places(root))}


def test_before_a_run_everything_is_absent_and_nothing_is_made(tmp_path: Path) -> None:
    assert {stage.state for stage in found(tmp_path).values()} == {"absent"}
    assert list(tmp_path.iterdir()) == []


def test_a_running_harvest_shows_its_committed_shards(tmp_path: Path) -> None:
    at = places(tmp_path)
    assert at.tokens is not None
    segments = {"train": [15, 10], "eval": [4]}
    write_manifest(at.tokens, {"n_sequences": {"train": 25, "eval": 4}, "segments": segments, "context_length": 64})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"hash": pa.array([bytes([i] * 16) for i in range(29)], pa.binary(16))}), sink)
    open_store(at.tokens).put("sequences.parquet", sink.getvalue())
    of_others = "commits/train-0123456789abcdef.json"
    for key in (*(shard.commit_key for shard in planned_shards(at.tokens, 640)[:2]), of_others):
        open_store(at.shards).put(key, b"{}")
    stages = found(tmp_path)
    assert stages["tokens"].state == "finished"
    # 640 tokens are 10 sequences of 64: 15 and 10 train sequences make 3 shards, 4 eval sequences 1.
    assert stages["activations"] == StageStatus("activations", at.activations, "unfinished", 2, 4, "shards")
    assert stages["sae"].state == "absent"


def test_a_killed_training_shows_its_last_checkpoint(tmp_path: Path) -> None:
    at = places(tmp_path)
    for step in (4, 8):
        open_store(at.sae).put(f"checkpoints/run/step-{step:08d}/state.safetensors", b"x")
    assert found(tmp_path)["sae"] == StageStatus("sae", at.sae, "unfinished", 8 * 256, 4096, "tokens")


def test_a_status_is_a_line() -> None:
    line = describe_status(StageStatus("activations", "/r/activations/a-0", "unfinished", 3, 14, "shards"))
    assert line.split() == ["activations", "unfinished", "3/14", "shards", "/r/activations/a-0"]
