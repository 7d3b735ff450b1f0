"""Where the rows of a training come from: an activations directory, or an array in memory."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flows.api.activations import chosen_hooks, lanes_of
from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.multi_hook import open_split
from tasks.activations.tensors import as_tensor, from_stored
from tasks.errors import InputError
from tasks.sae.scaling import Scaling, scaling, side_by_side
from tasks.storage.artifacts import require_manifest
from tasks.storage.objects import open_store
from tasks.train.config import TrainConfig

_ROWS_AT_A_TIME = 65_536


class TrainingRows(Protocol):
    """Rows to train on."""

    scaling: Scaling
    """The map behind which the SAE is trained."""
    hooks: tuple[str, ...]
    """Whose activations they are, where that is known."""
    model: str | None
    """The model whose activations they are, where that is known."""

    @property
    def d_in(self) -> int:
        """Width of a row."""
        ...

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    def batches(self, first: int, n: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Raw rows of the steps ``first`` to ``first + n``; a step's rows depend on its number and the seed alone."""
        ...


class Stored:
    """The train rows of a directory, in the batches of a run of the pipeline."""

    def __init__(self, uri: str, hooks: Sequence[str], config: TrainConfig, device: str | torch.device) -> None:
        rows = open_split(uri, hooks, "train").rows
        if rows == 0:
            raise InputError(f"{uri} has no train rows.")
        lanes = lanes_of(config.batch_tokens, rows)
        self._reader = LaneReader(uri, hooks, batch_rows=config.batch_tokens, lanes=lanes, seed=config.seed)
        self._device = device
        self.d_in, self.rows = self._reader.split.d_in, rows
        model = require_manifest(uri).get("model")
        self.model: str | None = model.get("name") if isinstance(model, dict) else None
        self.hooks = tuple(hooks)
        self.scaling = side_by_side([_scaling(part.statistics, device) for part in self._reader.split.parts])

    @classmethod
    def of(cls, uri: str, hook: str | None, config: TrainConfig, device: str | torch.device) -> "Stored":
        """The rows of one hook, which has to be named where there are several."""
        found = open_store(uri).uri
        return cls(found, chosen_hooks(found, hook), config, device)

    def batches(self, first: int, n: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Raw rows of the steps ``first`` to ``first + n``."""
        found = self._reader.batches(first, n)
        return (from_stored(as_tensor(rows, self._device), self._reader.split.dtype) for rows in found)


class InMemory:
    """An array's rows, each once per epoch, in a new order in every epoch."""

    hooks: tuple[str, ...] = ()
    model: str | None = None

    def __init__(self, array: Any, config: TrainConfig, device: str | torch.device) -> None:
        self._array = as_rows(array)
        self._device = device
        self._batch_rows, self._seed = config.batch_tokens, config.seed
        self.rows, self.d_in = self._array.shape
        self.scaling = _scaling(statistics(self._array), device)
        self._last = -1, torch.empty(0, dtype=torch.int64)
        """An epoch and its order, the last that was asked for: of a million rows it takes 10 ms."""

    def batches(self, first: int, n: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Raw rows of the steps ``first`` to ``first + n``."""
        for step in range(first, first + n):
            yield self._array[self._places(step * self._batch_rows)].to(self._device)

    def _places(self, start: int) -> Tensor:
        """The rows of the batch that begins at place ``start`` of the stream of all epochs' orders."""
        stop = start + self._batch_rows
        epochs = range(start // self.rows, (stop - 1) // self.rows + 1)
        return torch.cat([self._order(e)[max(0, start - e * self.rows) : stop - e * self.rows] for e in epochs])

    def _order(self, epoch: int) -> Tensor:
        if self._last[0] != epoch:
            self._last = epoch, torch.from_numpy(np.random.default_rng((self._seed, epoch)).permutation(self.rows))
        return self._last[1]


def as_rows(array: Any) -> Float[Tensor, "n d_in"]:
    """Rows as a tensor, in float32 or a lower precision; what is in such a precision already is not copied.

    Raises:
        InputError: there are no rows, or they are not numbers ``[n, d_in]``.
    """
    try:
        found = array.detach() if isinstance(array, Tensor) else _tensor(array)
    except (TypeError, ValueError) as error:
        raise InputError(f"activations are of type {type(array).__name__}, which is no array of numbers: {error}.") from None
    if found.ndim != 2 or not found.numel() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(
            f"activations are a {found.dtype} array of shape {list(found.shape)}; expected were rows of numbers [n, d_in]."
        )
    return found if found.dtype in (torch.float32, torch.bfloat16, torch.float16) else found.float()


def _tensor(array: Any) -> Tensor:
    plain = np.ascontiguousarray(array)
    return torch.from_numpy(plain if plain.flags.writeable else plain.copy())


def statistics(rows: Float[Tensor, "n d_in"]) -> dict[str, Any]:
    """Mean, and E||x - mean||^2, summed in float64.

    Raises:
        InputError: a row is not finite.
    """
    total, squares = torch.zeros(rows.shape[1], dtype=torch.float64), 0.0
    for first, part in _parts(rows):
        bad = ~part.isfinite().all(1)
        if bool(bad.any()):
            raise InputError(f"Row {first + int(bad.nonzero()[0])} of the activations is not finite; leave such rows out.")
        total += part.sum(0)
    mean = total / len(rows)
    for _, part in _parts(rows):
        squares += float((part - mean).square().sum())
    return {"mean": mean.tolist(), "variance": squares / len(rows)}


def _parts(rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Some rows at a time in float64 on the CPU, each with the number of its first row."""
    for first in range(0, len(rows), _ROWS_AT_A_TIME):
        yield first, rows[first : first + _ROWS_AT_A_TIME].cpu().double()


def _scaling(found: dict[str, Any], device: str | torch.device) -> Scaling:
    return scaling(torch.tensor(found["mean"], dtype=torch.float32, device=device), found["variance"])
