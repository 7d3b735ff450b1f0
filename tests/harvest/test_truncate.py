"""A harvest with a model that is cut short behind the last hook."""

from collections.abc import Callable
from pathlib import Path

from tasks.harvest.pool.actor import Harvester, HarvestJob
from tasks.harvest.shards import planned_shards
from tests.harvest.conftest import CONTEXT, places, tiny_config


def test_its_shards_are_those_of_the_whole_model_to_the_byte(
    tiny_llama: str, tokens_directory: Callable[[str], str], tmp_path: Path
) -> None:
    tokens = tokens_directory(str(tmp_path))
    found: dict[str, dict[str, bytes]] = {}
    layers = []
    for truncate in ("auto", "off"):
        root = tmp_path / truncate
        config = tiny_config(tiny_llama, str(root))
        worker = Harvester(
            HarvestJob(
                settings=config.harvest,
                model=config.model.model_copy(update={"truncate": truncate}),
                tokens=tokens,
                out=places(str(root))[0],
                context_length=CONTEXT,
                special_token_ids=[0],
                gpus=0,
            )
        )
        for shard in planned_shards(tokens, config.harvest.shard_tokens)[:2]:
            assert worker.harvest(shard, 1)
        layers.append(len(worker._subject.engine.model.model.layers))
        found[truncate] = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet")}
    assert layers == [2, 3]
    assert len(found["auto"]) == 4  # two hooks
    assert found["auto"] == found["off"]
