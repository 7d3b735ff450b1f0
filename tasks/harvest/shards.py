"""The unit of harvesting: a run of sequences of one split, always cut the same way."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Shard:
    """Sequences [first_sequence, first_sequence + n_sequences) of one split."""

    split: str
    index: int
    first_sequence: int
    n_sequences: int

    @property
    def name(self) -> str:
        """Such as ``train-00003``."""
        return f"{self.split}-{self.index:05d}"

    @property
    def commit_key(self) -> str:
        """Where the record lies that decides that the shard is done."""
        return f"commits/{self.name}.json"

    def data_key(self, hook: str, sha256: str) -> str:
        """Where a hook's rows lie.

        The name follows from the content, so two attempts at a shard write the same object, never two versions of it,
        and the manifest does not show which attempt won.
        """
        return f"{hook_folder(hook)}/{self.split}/{self.index:05d}-{sha256[:12]}.parquet"


def hook_folder(hook: str) -> str:
    """A hook's name as a folder: 'a.b:input' becomes 'a.b@input', since ':' is not welcome in every file system."""
    return hook.replace(":", "@")


def plan_shards(n_sequences: dict[str, int], context_length: int, shard_tokens: int) -> list[Shard]:
    """Cut the splits' sequences (train's come first) into shards of about ``shard_tokens``, eval's first in line.

    Eval is harvested first, so that a run that is cut short can be looked at.
    """
    size = max(1, shard_tokens // context_length)
    first = {"train": 0, "eval": n_sequences["train"]}
    return [
        Shard(split, index, first[split] + start, min(size, n_sequences[split] - start))
        for split in ("eval", "train")
        for index, start in enumerate(range(0, n_sequences[split], size))
    ]


def row_order(recipe: str, split: str, index: int, rows: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """The order in which a shard's rows are stored: permuted for train (seeded by the recipe), as they came for eval."""
    if split != "train":
        return np.arange(rows)
    return np.random.default_rng([int(recipe, 16), index]).permutation(rows)
