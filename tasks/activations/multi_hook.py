"""Several hooks of one harvest read as one: the rows of each token side by side, in the order of the hooks.

A harvest leaves out the same tokens at all its hooks, and stores a shard's rows in one order, which follows from its
recipe, the shard and their number. So they stand row by row beside each other, and a token needs no looking up. That this
is so is not believed but compared, shard by shard, before rows of a shard are given out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.activations.reader import Split
from tasks.activations.row_ranges import Unit
from tasks.activations.schema import Array, storage_dtype, to_float32
from tasks.activations.writer import Rows
from tasks.errors import ArtifactError


class JoinedSplit:
    """Train or eval rows of several hooks, with what ``Split`` gives of one; ``d_in`` is the sum of their widths.

    int8 rows, each of which has a scale of its own, are given as float32.
    """

    def __init__(self, uri: str, hooks: Sequence[str], split: str) -> None:
        """Read the manifest.

        Raises:
            ArtifactError: the directory is unfinished, lacks one of the hooks, or holds other tokens at one than at another.
        """
        self.uri = uri
        self.hooks = tuple(hooks)
        self.parts = tuple(Split(uri, hook, split) for hook in hooks)
        first = self.parts[0]
        self.d_in = sum(part.d_in for part in self.parts)
        self.dtype = "float32" if first.dtype == "int8" else first.dtype
        self.rows = first.rows
        for index, part in enumerate(self.parts):
            if _cuts(part) != _cuts(first):
                raise self._refusal(index, f"{split}, as the manifest says")
        grown = storage_dtype(self.dtype).itemsize // storage_dtype(first.dtype).itemsize
        self.shards: list[dict[str, Any]] = [
            {**shards[0], "size": grown * sum(shard["size"] for shard in shards)}
            for shards in zip(*(part.shards for part in self.parts), strict=True)
        ]
        self._compared: set[int] = set()

    def columns(self, hooks: Sequence[str]) -> slice:
        """The columns of rows in which the activations of ``hooks`` lie, which must follow each other in ``self.hooks``."""
        first = self.hooks.index(hooks[0])
        assert self.hooks[first : first + len(hooks)] == tuple(hooks)
        ends = np.cumsum([0, *(part.d_in for part in self.parts)]).tolist()
        return slice(ends[first], ends[first + len(hooks)])

    def units(self, at_least: int = 1) -> list[Unit]:
        """All rows as units, the same as those of each hook alone."""
        return self.parts[0].units(at_least)

    def activations(self, unit: Unit) -> Array:
        """A unit's activations [rows, d_in]."""
        self._require_same_tokens(unit.shard)
        return self._side_by_side([part.activations(unit) for part in self.parts])

    def shard(self, index: int, start: int = 0, stop: int | None = None) -> Rows:
        """Rows [start, stop) of one shard in stored order, all by default."""
        self._require_same_tokens(index)
        found = [part.shard(index, start, stop) for part in self.parts]
        activation = self._side_by_side([rows.activation for rows in found])
        return Rows(activation, found[0].token_id, found[0].sequence, found[0].position, found[0].label)

    def places(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Sequence and position of each row of one shard."""
        return self.parts[0].places(index)

    def _side_by_side(self, found: list[Array]) -> Array:
        rows = np.empty((len(found[0]), self.d_in), storage_dtype(self.dtype))
        start = 0
        for part, stored in zip(self.parts, found, strict=True):
            rows[:, start : start + part.d_in] = to_float32(stored, "int8") if part.dtype == "int8" else stored
            start += part.d_in
        return rows

    def _require_same_tokens(self, index: int) -> None:
        """Compare where the rows of a shard are from, once: 12 bytes of each row and hook."""
        if index in self._compared:
            return
        sequence, position = self.places(index)
        for number, part in enumerate(self.parts[1:], start=1):
            there = part.places(index)
            if not (np.array_equal(sequence, there[0]) and np.array_equal(position, there[1])):
                raise self._refusal(number, part.shards[index]["key"])
        self._compared.add(index)

    def _refusal(self, index: int, where: str) -> ArtifactError:
        return ArtifactError(
            f"{self.uri} does not hold the same tokens at {self.hooks[0]!r} and {self.hooks[index]!r} ({where}). Harvest "
            f"both again, together; saemill verify {self.uri} tells whether shards are damaged."
        )


AnySplit = Split | JoinedSplit
"""Rows of one hook, or of several side by side."""


def open_split(uri: str, hooks: Sequence[str], split: str) -> AnySplit:
    """The rows of one or several hooks.

    Raises:
        ArtifactError: the directory is unfinished, lacks one of the hooks, or holds other tokens at one than at another.
    """
    return Split(uri, hooks[0], split) if len(hooks) == 1 else JoinedSplit(uri, hooks, split)


def even_scale(training: AnySplit) -> npt.NDArray[np.float64]:
    """What the features [d_in] of several hooks are multiplied by so that all hooks weigh alike; its geometric mean is 1.

    It is that of training: each hook's root of its width over its variance.
    """
    pairs = [(part.d_in, part.statistics["variance"]) for part in training.parts]
    logs = [0.5 * np.log(d_in / variance) if variance > 0 else 0.0 for d_in, variance in pairs]
    scale = np.repeat(np.array(logs, np.float64), [d_in for d_in, _ in pairs])
    return np.asarray(np.exp(scale - scale.mean()))


def _cuts(part: Split) -> list[tuple[Any, ...]]:
    """How a hook's rows are cut; equal for hooks that hold the same tokens."""
    return [(shard["rows"], list(shard["row_groups"]), shard["first_sequence"]) for shard in part.shards]
