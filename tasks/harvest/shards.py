"""The unit of harvesting: a run of sequences of one split, named by what it holds.

Two corpora that share a segment of text share its shards, wherever they stand in them: so a shard is harvested once for
all the corpora of a nightly run, and what is new is all that a new corpus costs.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.storage.artifacts import require_manifest
from tasks.storage.objects import open_store
from tasks.text.stored import read_hashes, require_segments


@dataclass(frozen=True, slots=True)
class Shard:
    """Sequences [first_sequence, first_sequence + n_sequences) of one split."""

    split: str
    content: str
    """Hex digits that follow from the sequences' tokens (harvest) or from their place (rows of the user's own)."""
    first_sequence: int
    """Its place, which is no part of what it is; stored rows count their sequences from here."""
    n_sequences: int

    @property
    def name(self) -> str:
        """Such as ``train-1f0c5d3a9b27e604``."""
        return f"{self.split}-{self.content}"

    @property
    def commit_key(self) -> str:
        """Where the record lies that decides that the shard is done."""
        return f"commits/{self.name}.json"

    def data_key(self, hook: str, sha256: str) -> str:
        """Where a hook's rows lie.

        The name follows from the content, so two attempts at a shard write the same object, never two versions of it,
        and the manifest does not show which attempt won.
        """
        return f"{hook_folder(hook)}/{self.split}/{self.content}-{sha256[:12]}.parquet"

    def identity(self) -> dict[str, Any]:
        """What a commit record says of the shard: all but its place."""
        return {name: value for name, value in asdict(self).items() if name != "first_sequence"}


def hook_folder(hook: str) -> str:
    """A hook's name as a folder: 'a.b:input' becomes 'a.b@input', since ':' is not welcome in every file system."""
    return hook.replace(":", "@")


def planned_shards(tokens: str, shard_tokens: int) -> list[Shard]:
    """The shards of a tokens directory.

    Raises:
        ArtifactError: the directory is unfinished or of an older version.
    """
    read = require_manifest(tokens)
    require_segments(tokens, read)
    return plan_shards(read["segments"], read["context_length"], shard_tokens, read_hashes(tokens))


def plan_shards(
    segments: dict[str, list[int]], context_length: int, shard_tokens: int, hashes: "np.ndarray[Any, np.dtype[np.void]]"
) -> list[Shard]:
    """Cut each segment's sequences into shards of about ``shard_tokens``, eval's first in line.

    Eval is harvested first, so that a run that is cut short can be looked at.

    Args:
        segments: sequences of each segment, by split; train's sequences come first.
        context_length: tokens of a sequence.
        shard_tokens: tokens of a shard, at most, unless one sequence has more.
        hashes: [n_sequences] hash of each sequence's tokens.
    """
    size = max(1, shard_tokens // context_length)
    first = {"train": 0, "eval": sum(segments["train"])}
    return [
        Shard(split, _content(split, hashes[start:stop]), start, stop - start)
        for split in ("eval", "train")
        for start, stop in _cuts(first[split], segments[split], size)
    ]


def committed(uri: str) -> set[str]:
    """Keys of the commit records that are there, from one listing."""
    return {info.key for info in open_store(uri).list("commits/")}


def row_order(seed: str, shard: Shard, rows: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """The order in which a shard's rows are stored: permuted for train (seeded by hex digits), as they came for eval."""
    if shard.split != "train":
        return np.arange(rows)
    return np.random.default_rng([int(seed, 16), int(shard.content, 16)]).permutation(rows)


def _cuts(first: int, segments: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    for n in segments:
        for start in range(first, first + n, size):
            yield start, min(start + size, first + n)
        first += n


def _content(split: str, hashes: "np.ndarray[Any, np.dtype[np.void]]") -> str:
    # 64 bits: among a million shards of one recipe, two differ but collide with a probability of 3e-8.
    return hashlib.blake2b(split.encode() + hashes.tobytes(), digest_size=8).hexdigest()
