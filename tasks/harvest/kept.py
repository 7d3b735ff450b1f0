"""Which shards stay where training rows are deleted once they have been trained on."""

import math
from collections.abc import Sequence
from typing import Any

from tasks.activations.manifest import SAMPLED
from tasks.harvest.config import HarvestConfig
from tasks.harvest.shards import Shard

SAMPLE_TOKENS = 100_000
"""Of training rows, so many stay at most (but one shard at least): as many as scores fit their baselines to."""
# Of a small harvest fewer stay, so that the sample is small beside what is deleted.
_SAMPLE_SHARE = 1 / 100


def kept_shards(planned: Sequence[Shard], settings: HarvestConfig) -> list[Shard]:
    """The shards that stay, in their order: all, or the held-out ones and a sample of training shards, evenly spaced."""
    if settings.keep == "all":
        return list(planned)
    train = [shard for shard in planned if shard.split == "train"]
    wanted = max(1, min(math.ceil(SAMPLE_TOKENS / settings.shard_tokens), int(len(train) * _SAMPLE_SHARE)))
    sample = {train[len(train) * (2 * i + 1) // (2 * wanted)] for i in range(wanted)} if train else set()
    return [shard for shard in planned if shard.split != "train" or shard in sample]


def sampled(planned: Sequence[Shard], kept: Sequence[Shard]) -> dict[str, Any]:
    """What the manifest says beside the shards that it lists: how many training shards of how many these are."""
    there, of = (sum(shard.split == "train" for shard in shards) for shards in (kept, planned))
    return {SAMPLED: {"train": {"kept": there, "of": of}}} if there < of else {}
