"""Stored activations as batches of tensors, shuffled or in stored order."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.manifest import require_hooks
from tasks.activations.multi_hook import AnySplit, open_split
from tasks.activations.schema import Array
from tasks.activations.tensors import as_tensor, from_stored
from tasks.encode.chunks import regrouped
from tasks.encode.pieces import cut
from tasks.errors import InputError
from tasks.storage.artifacts import require_manifest
from tasks.storage.objects import open_store

MOST_LANES = 16
"""As many as a run of the pipeline has, unless it says otherwise, so that its batches are the same."""
_READ_ROWS = 8192
"""Rows of one shard that are read at once in stored order."""


class Activations:
    """Batches ``[batch_size, d_in]`` of raw activations, for a ``for`` loop.

    A loop goes through one epoch, or the rest of one where an earlier loop was left. The next epoch has another order.
    ``position``, the number of batches that were given, is all that has to be kept to go on at the same place. Nothing is
    read before the first batch is asked for; then a thread reads ahead.
    """

    def __init__(
        self,
        uri: str,
        hooks: Sequence[str],
        split: Literal["train", "eval"],
        batch_size: int,
        seed: int,
        shuffle: bool,
        device: str | torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.uri = uri
        self.hooks = tuple(hooks)
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.position = 0
        """How many batches were given, over all epochs."""
        self._source = open_split(uri, hooks, split)
        self.d_in = self._source.d_in
        """Width of a row: of several hooks, the sum of their widths."""
        self.rows = self._source.rows
        """Rows of the split."""
        self._device, self._dtype = device, dtype

    def __len__(self) -> int:
        """Batches of an epoch. Shuffled ones are all whole, so that up to a batch's rows of an epoch come in the next."""
        whole, rest = divmod(self.rows, self.batch_size)
        return max(1, whole) if self.shuffle else whole + (rest > 0)

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        """The batches from ``position`` to the end of its epoch."""
        done = self.position % len(self)
        batches = self._shuffled(len(self) - done) if self.shuffle else self._in_stored_order(done)
        for rows in batches:
            found = from_stored(as_tensor(rows, self._device), self._source.dtype)
            self.position += 1
            yield found if self._dtype is None else found.to(self._dtype)

    def state_dict(self) -> dict[str, int]:
        """What ``load_state_dict`` of the same activations, opened in the same way, takes to go on here."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batch after which ``state_dict`` was called.

        Raises:
            InputError: the state is of something else.
        """
        position = state.get("position")
        if type(position) is not int or position < 0:
            raise InputError(f"The state of activations is {state!r}; expected was a position, a whole number from 0 on.")
        self.position = position

    @override
    def __repr__(self) -> str:
        order = f"shuffled with seed {self.seed}" if self.shuffle else "in stored order"
        sizes = f"{self.rows:,} {self.split} rows, d_in {self.d_in}, {len(self):,} batches of {self.batch_size:,}"
        return f"{type(self).__name__}({', '.join(self.hooks)}: {sizes}, {order}, at batch {self.position:,})"

    def _shuffled(self, n: int) -> Iterator[Array]:
        lanes = lanes_of(self.batch_size, self.rows)
        reader = LaneReader(self.uri, self.hooks, batch_rows=self.batch_size, lanes=lanes, seed=self.seed, split=self.split)
        return reader.batches(self.position, n)

    def _in_stored_order(self, done: int) -> Iterator[Array]:
        for rows in regrouped(_blocks(self._source, done * self.batch_size), self.batch_size):
            yield rows if rows.flags.writeable else rows.copy()  # what lies in a file's memory cannot be a tensor's


def activations(
    uri: str | os.PathLike[str],
    *,
    hook: str | Sequence[str] | None = None,
    split: Literal["train", "eval"] = "train",
    batch_size: int = 1024,
    seed: int = 0,
    shuffle: bool = True,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> Activations:
    """Stored activations as an iterable of batches.

    Args:
        uri: an activations directory, as ``saemill harvest`` prints it.
        hook: whose activations. Several hooks give rows that stand side by side. None: the only hook that is there.
        split: the rows to train on, or those that are held out.
        batch_size: rows of a batch.
        seed: of the order.
        shuffle: whether rows come in a random order, or as they are stored.
        device: where the batches are to be.
        dtype: of the batches; None: as they are stored, int8 as float32.

    Raises:
        InputError: it is a directory of something else, or it is not clear which hook is meant.
        ArtifactError: the directory is unfinished or damaged.
    """
    found = open_store(os.fspath(uri)).uri
    if type(batch_size) is not int or batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r} but must be a whole number from 1 on.")
    source = Activations(found, chosen_hooks(found, hook), split, batch_size, seed, shuffle, device, dtype)
    if source.rows == 0:
        raise InputError(f"{found} has no {split} rows.")
    return source


def chosen_hooks(uri: str, hook: str | Sequence[str] | None) -> tuple[str, ...]:
    """The hooks that are asked for, or the only one there is.

    Raises:
        InputError: the directory is of another stage, lacks one of them, or has several to choose from.
        ArtifactError: it is unfinished or damaged.
    """
    manifest: dict[str, Any] = require_manifest(uri)
    stage = manifest.get("stage", "activations")
    if stage != "activations":
        raise InputError(f"{uri} is a directory of stage {stage}; an activations directory was expected.")
    there = sorted(require_hooks(uri, manifest))
    wanted = tuple(name.removesuffix(":output") for name in ([hook] if isinstance(hook, str) else hook or there))
    lacking = [name for name in wanted if name not in there]
    if lacking:
        raise InputError(f"{uri} has no hook {lacking[0]!r}; it has {', '.join(there)}.")
    if hook is None and len(wanted) > 1:
        raise InputError(f"{uri} has the hooks {', '.join(there)}; say with hook=... whose activations are meant.")
    return wanted


def lanes_of(batch_size: int, rows: int) -> int:
    """Into how many lanes rows are dealt: as many as divide a batch evenly and have a row each, at most ``MOST_LANES``."""
    return next(n for n in range(min(MOST_LANES, batch_size, rows), 0, -1) if batch_size % n == 0)


def _blocks(source: AnySplit, first: int) -> Iterator[Array]:
    """All rows from number ``first`` on, in stored order."""
    for piece in cut(source, piece_rows=_READ_ROWS):
        if piece.first + piece.rows > first:
            yield source.shard(piece.shard, piece.start + max(0, first - piece.first), piece.stop).activation
