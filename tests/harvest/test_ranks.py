"""Two processes that hold a model between them, under gloo, against one that has all of it."""

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tasks.errors import InputError, SaemillError
from tasks.harvest.pool import ranks as ranks_module
from tasks.harvest.pool.actor import Harvester, HarvestJob
from tasks.harvest.pool.follower import Follower
from tasks.harvest.pool.ranks import RankLostError, Ranks, RanksOutOfMemoryError, Seat
from tasks.harvest.shards import planned_shards
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import capture
from tasks.lm.load import load_model
from tasks.storage.objects import open_store
from tests.harvest.conftest import CONTEXT, places, tiny_config
from tests.together import together

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EXPERTS = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=4)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS)),
}
WHOLE = [
    "model.embed_tokens",
    "model.layers.0",
    "model.layers.0.self_attn",
    "model.layers.1.mlp",
    "model.layers.1.mlp:input",
]
CUT = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj:input"]
HOOKS = {name: WHOLE + CUT + (["model.layers.1.mlp.down_proj:input"] if "moe" not in name else []) for name in MODELS}
REFUSED = {"qwen3": "model.layers.0.self_attn.q_norm", "llama": "model.layers.0.mlp.act_fn"}
TEXTS = [torch.randint(0, 50, size, generator=torch.Generator().manual_seed(1)) for size in [(2, 7), (3, 12)]]


def config_of(folder: Path, name: str) -> ModelConfig:
    return ModelConfig(name=str(folder / name), dtype="float32")


def _process(rank: int, folder: Path, meetings: tuple[str, str], job: HarvestJob) -> None:
    """All that a process of the group does; the files that it writes are what is looked at."""
    ranks = Ranks(Seat(rank, 2, meetings[0]), "cpu")
    for name, hooks in HOOKS.items():
        model = ranks.load(config_of(folder, name), hooks)
        for i, text in enumerate(TEXTS):
            if rank:
                ranks.follow(model, hooks)
            else:
                torch.save(ranks.capture(model, hooks, text), folder / f"{name}-{i}.pt")
        own = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
        told = {"layers": len(model.model.layers), "numbers": sum(p.numel() for p in own)}
        (folder / f"{name}-{rank}.json").write_text(json.dumps(told))
    for name, hook in REFUSED.items():
        with pytest.raises(InputError) as refused:
            ranks.load(config_of(folder, name), [hook])
        (folder / f"refused-{name}-{rank}").write_text(str(refused.value))
    dist.destroy_process_group()
    ended = (_harvest if rank == 0 else _follow)(job, Seat(rank, 2, meetings[1]))
    (folder / f"ended-{rank}").write_text(f"{type(ended).__name__}: {ended}")


def _harvest(job: HarvestJob, seat: Seat) -> SaemillError:
    worker = Harvester(job, seat)
    for shard in planned_shards(job.tokens, job.settings.shard_tokens):
        assert worker.harvest(shard, 1).computed

    def full(*_: object) -> None:
        raise MemoryError

    ranks_module.capture = full  # type: ignore[assignment]
    with pytest.raises(RanksOutOfMemoryError) as ended:
        worker._subject.engine.hidden(job.settings.hooks, TEXTS[1])
    assert ended.value.sequences == 3
    return ended.value


def _follow(job: HarvestJob, seat: Seat) -> SaemillError:
    with pytest.raises(RankLostError) as ended:
        Follower(job, seat).follow()
    return ended.value


@pytest.fixture(scope="module")
def folder(even_llama: str, tokens_directory: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left there, and the models that they had."""
    folder = tmp_path_factory.mktemp("group")
    torch.manual_seed(0)
    for name, make in MODELS.items():
        make().save_pretrained(folder / name)
    meetings = uuid.uuid4().hex, uuid.uuid4().hex
    together(_process, folder, meetings, job_of(even_llama, tokens_directory(str(folder)), folder / "ours"), world_size=2)
    return folder


def job_of(model: str, tokens: str, root: Path) -> HarvestJob:
    config = tiny_config(model, str(root))
    return HarvestJob(
        settings=config.harvest.model_copy(update={"batch_sequences": None}),
        model=config.model,
        tokens=tokens,
        out=places(str(root))[0],
        context_length=CONTEXT,
        special_token_ids=[0],
        gpus=0,
        order="abcd",
    )


@pytest.mark.parametrize("name", MODELS)
def test_what_two_processes_see_is_what_one_sees(folder: Path, name: str) -> None:
    model = load_model(config_of(folder, name), hooks=HOOKS[name])
    for i, text in enumerate(TEXTS):
        expected = capture(model, HOOKS[name], text)
        found = torch.load(folder / f"{name}-{i}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for hook, activation in expected.items():
            torch.testing.assert_close(
                found[hook], activation, atol=1e-5, rtol=1e-5, msg=lambda said, hook=hook: f"{hook}: {said}"
            )


@pytest.mark.parametrize("name", MODELS)
def test_each_holds_a_part_of_the_layers_up_to_the_last_hook(folder: Path, name: str) -> None:
    whole = sum(p.numel() for p in load_model(config_of(folder, name), hooks=HOOKS[name]).parameters())
    for rank in (0, 1):
        told = json.loads((folder / f"{name}-{rank}.json").read_text())
        assert told["layers"] == 2
        assert told["numbers"] < 0.6 * whole


@pytest.mark.parametrize("name", REFUSED)
def test_a_hook_that_no_process_has_whole_is_refused_in_all_of_them(folder: Path, name: str) -> None:
    for rank in (0, 1):
        said = (folder / f"refused-{name}-{rank}").read_text()
        assert said.startswith(f"Hook '{REFUSED[name]}' lies within what 2 processes have parts of")


def test_a_process_that_runs_out_of_memory_ends_the_others(folder: Path) -> None:
    assert (folder / "ended-0").read_text() == "RanksOutOfMemoryError: there is no memory for 3 sequences at once"
    assert (folder / "ended-1").read_text().startswith("RankLostError: a forward pass of several processes ended early (")


def test_shards_of_two_processes_hold_the_rows_of_one(folder: Path, even_llama: str, tmp_path: Path) -> None:
    [tokens] = (folder / "tokens").iterdir()
    job = job_of(even_llama, str(tokens), folder / "ours")
    alone = replace(job, out=places(str(tmp_path))[0])
    worker = Harvester(alone)
    shards = planned_shards(job.tokens, job.settings.shard_tokens)
    assert all(worker.harvest(shard, 1).computed for shard in shards)
    for shard in shards:
        ours, theirs = (json.loads(open_store(out).get(shard.commit_key))["objects"] for out in (job.out, alone.out))
        for hook in job.settings.hooks:
            found, expected = (
                pq.read_table(Path(out, entry[hook]["key"])) for out, entry in ((job.out, ours), (alone.out, theirs))
            )
            for column in ("token_id", "sequence", "position"):
                assert found[column].equals(expected[column])
            rows = [np.frombuffer(b"".join(table["activation"].to_pylist()), "<f4") for table in (found, expected)]
            assert len(rows[0])
            np.testing.assert_allclose(*rows, rtol=1e-5, atol=1e-5)
