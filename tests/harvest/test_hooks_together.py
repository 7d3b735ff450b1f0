"""What a harvest of several hooks has to leave, so that a crosscoder or a transcoder can be trained on it."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.activations.multi_hook import JoinedSplit
from tasks.activations.reader import Split
from tasks.harvest.capture import Subject, forward, rows
from tasks.harvest.commit import commit_shard, hook_entries, manifest
from tasks.harvest.config import HarvestConfig
from tasks.harvest.shards import Shard, row_order
from tasks.lm.engines.transformers_engine import TransformersEngine
from tasks.storage.artifacts import require_manifest, write_manifest
from tasks.storage.objects import open_store

HOOKS = ["model.layers.0", "model.layers.1.mlp:input", "model.layers.1.mlp"]
RECIPE = "123456789abc"
TOKENS = np.random.default_rng(0).integers(0, 50, (24, 6), dtype=np.int32)
SHARDS = [Shard("eval", "0e", 20, 4), Shard("train", "0a", 0, 10), Shard("train", "0b", 10, 10)]


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 50}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
    return Subject(TransformersEngine(model.eval()), "tiny", "main", special_token_ids=[0])


def harvested(subject: Subject, uri: str, max_norm_multiple: float | None, hooks: list[str] = HOOKS) -> str:
    """All shards, as an actor makes them."""
    config = HarvestConfig(hooks=hooks, dtype="float32", max_norm_multiple=max_norm_multiple, row_group_rows=8)
    for shard in SHARDS:
        token_ids = TOKENS[shard.first_sequence : shard.first_sequence + shard.n_sequences]
        captured = forward(subject, config, token_ids, lambda _: None)
        found = rows(subject, config, RECIPE, token_ids, captured, functools.partial(row_order, RECIPE, shard))
        commit_shard(open_store(uri), shard, found, config.row_group_rows)
    write_manifest(uri, manifest({"hash": RECIPE}, hook_entries(uri, SHARDS, config.dtype)))
    return uri


@pytest.mark.parametrize("split", ["train", "eval"])
def test_all_hooks_hold_the_same_tokens_in_the_same_order(subject: Subject, tmp_path: Path, split: str) -> None:
    uri = harvested(subject, str(tmp_path / f"activations-{RECIPE}"), max_norm_multiple=None)
    joined = JoinedSplit(uri, HOOKS, split)
    for index in range(len(joined.shards)):
        found, *others = (Split(uri, hook, split).shard(index) for hook in HOOKS)
        for other in others:
            assert np.array_equal(found.token_id, other.token_id)
            assert np.array_equal(found.sequence, other.sequence)
            assert np.array_equal(found.position, other.position)
        assert np.array_equal(found.token_id, TOKENS[found.sequence, found.position])
        assert (split == "train") != bool((np.diff(found.sequence * 6 + found.position) > 0).all())  # train is permuted
        assert len(joined.shard(index)) == len(found)


def test_rows_side_by_side_are_what_the_model_computes_from_each_other(subject: Subject, tmp_path: Path) -> None:
    uri = harvested(subject, str(tmp_path / f"activations-{RECIPE}"), max_norm_multiple=None)
    pair = JoinedSplit(uri, HOOKS[1:], "train")
    rows = torch.from_numpy(pair.shard(0).activation)
    with torch.inference_mode():
        expected = subject.engine.model.model.layers[1].mlp(rows[:, pair.columns([HOOKS[1]])])
    torch.testing.assert_close(rows[:, pair.columns([HOOKS[2]])], expected, rtol=1e-4, atol=1e-6)


def test_an_outlier_at_one_hook_is_left_out_at_all_of_them(subject: Subject, tmp_path: Path) -> None:
    some = harvested(subject, str(tmp_path / f"activations-{RECIPE}"), max_norm_multiple=1.2)
    joined, alone = JoinedSplit(some, HOOKS, "train"), {}
    assert sum(len(joined.shard(index)) for index in range(2)) == joined.rows
    masked = [require_manifest(some)["hooks"][hook]["masked"]["train"] for hook in HOOKS]
    assert masked[0] == masked[1] == masked[2]
    for hook in HOOKS:
        uri = harvested(subject, str(tmp_path / hook.replace(":", "-") / f"activations-{RECIPE}"), 1.2, [hook])
        alone[hook] = kept(Split(uri, hook, "train"))
    assert kept(Split(some, HOOKS[0], "train")) == set.intersection(*alone.values())
    assert len({frozenset(tokens) for tokens in alone.values()}) > 1


def kept(split: Split) -> set[tuple[int, int]]:
    """Sequence and position of all rows."""
    places = [split.places(index) for index in range(len(split.shards))]
    return {place for sequence, position in places for place in zip(sequence.tolist(), position.tolist(), strict=True)}
