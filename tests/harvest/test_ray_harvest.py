from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from flows.config import PipelineConfig
from tasks.activations.reader import Split
from tasks.errors import InputError
from tasks.progress import silent
from tasks.storage.artifacts import read_json, require_manifest
from tasks.storage.objects import open_store
from tasks.text.stored import read_sequences
from tests.composed import harvest
from tests.harvest.conftest import Harvested, places

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def changed(config: PipelineConfig, **groups: Any) -> PipelineConfig:
    """The configuration with some settings of some groups replaced."""
    values = config.model_dump()
    for name, value in groups.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    return PipelineConfig.model_validate(values)


def test_harvested_rows_are_the_models_own_hidden_states(harvested: Harvested) -> None:
    token_ids = read_sequences(harvested.tokens, 40, 6)
    model = LlamaForCausalLM.from_pretrained(harvested.config.model.name)
    expected = model(torch.from_numpy(token_ids.astype(np.int64)), output_hidden_states=True).hidden_states[1]
    held_out = Split(harvested.out, "model.layers.0", "eval")
    rows = [held_out.shard(i) for i in range(len(held_out.shards))]
    kept = (token_ids != 0) & (np.arange(8) > 0)
    stored = np.concatenate([r.activation for r in rows])
    np.testing.assert_allclose(stored, expected.detach().numpy()[kept], rtol=1e-4, atol=1e-5)
    assert np.concatenate([r.token_id for r in rows]).tolist() == token_ids[kept].tolist()
    assert np.concatenate([r.sequence for r in rows])[0] == 40


def test_every_token_is_kept_or_counted_as_masked(harvested: Harvested) -> None:
    for entry in require_manifest(harvested.out)["hooks"].values():
        for split, n_sequences in (("train", 40), ("eval", 6)):
            rows = entry["splits"][split]["rows"]
            assert rows + sum(entry["masked"][split].values()) == n_sequences * 8


def test_train_rows_are_permuted_and_none_is_there_twice(harvested: Harvested) -> None:
    first = Split(harvested.out, "model.layers.0", "train").shard(0)
    places = list(zip(first.sequence.tolist(), first.position.tolist(), strict=True))
    assert places != sorted(places)
    assert len(set(places)) == len(places)


def test_a_second_harvest_does_nothing(harvested: Harvested) -> None:
    before = read_json(harvested.out, "run.json")
    harvest(harvested.config, harvested.tokens, harvested.shards, harvested.out, lambda _: pytest.fail("worked again"))
    assert read_json(harvested.out, "run.json") == before


def test_progress_ends_at_the_whole(harvested: Harvested) -> None:
    last = harvested.heard[-1]
    assert (last.stage, last.done, last.total) == ("harvest", 46 * 8, 46 * 8)


def test_committed_shards_are_kept_and_the_manifest_is_the_same(harvested: Harvested, tmp_path: Path) -> None:
    there = harvested.copied(tmp_path)
    home, pool = open_store(there.out), open_store(there.shards)
    undisturbed = home.get("manifest.json")
    home.delete("manifest.json")
    lost, *kept = (info.key for info in pool.list("commits/train"))
    pool.delete(lost)  # as after a kill between data and commit
    before = {key: pool.get(key) for key in kept}
    harvest(changed(harvested.config, harvest={"actors": 1}), there.tokens, there.shards, there.out, silent)
    assert home.get("manifest.json") == undisturbed
    assert {key: pool.get(key) for key in kept} == before


def test_more_actors_than_the_cluster_holds_are_refused(harvested: Harvested, tmp_path: Path) -> None:
    config = changed(harvested.config, harvest={"actors": 9})
    with pytest.raises(InputError, match="9 harvest actors need 9 CPUs"):
        harvest(config, harvested.tokens, *places(str(tmp_path)), silent)
    assert list(tmp_path.iterdir()) == []


def test_float16_overflow_names_the_remedy(harvested: Harvested, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(harvested.config.model.name)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1e7)
    model.save_pretrained(tmp_path / "huge")
    config = changed(harvested.config, model={"name": str(tmp_path / "huge")}, harvest={"dtype": "float16", "actors": 1})
    with pytest.raises(InputError, match=r"not finite in float16. Set harvest.dtype to bfloat16 or float32"):
        harvest(config, harvested.tokens, *places(str(tmp_path)), silent)


@pytest.mark.s3
def test_the_same_rows_land_on_s3(harvested: Harvested, s3: str, tokens_directory: Callable[[str], str]) -> None:
    config = changed(harvested.config, storage=f"{s3}/harvest", harvest={"actors": 1})
    shards, out = places(config.storage)
    harvest(config, tokens_directory(config.storage), shards, out, silent)
    assert open_store(out).get("manifest.json") == open_store(harvested.out).get("manifest.json")
    there, here = (Split(uri, "model.layers.0", "eval").shard(0) for uri in (out, harvested.out))
    np.testing.assert_array_equal(there.activation, here.activation)
