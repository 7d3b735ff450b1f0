"""One shard of sequences through the model: rows, masks and sums for every hook. No Ray, no storage.

``forward`` needs the model, ``rows`` only a core: a shard's rows can be made while the next shard is in the model. CPU time
of 32,768 tokens at one hook of 576 x bfloat16 (SmolLM2-135M up to layer 8): the model 9.0 s, ``rows`` 0.03 s. Memory holds
what ``forward`` stored of all hooks and what ``rows`` made of it, hook by hook, beside the model's work on one batch.

All numbers of activations stay on the model's device until they are what is stored, in the order in which they are stored;
then each hook's rows come to main memory by one copy. What the host decides it decides by each row's norm: which rows are
left out, and where the others go. So a GPU's rows are to the bit those of a CPU that has the same activations; of the
statistics, norms and sums differ by their rounding.

Where batches are cut did not matter on a CPU: of that model, in bfloat16 and float32 on one thread, 1, 2, 4 and 8 sequences
at once gave the same bits, and so did 16 and 32 in its first layers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.activations.schema import Dtype, RowFormat, row_bytes, to_float32
from tasks.activations.tensors import as_array, empty_stored, from_stored, to_stored
from tasks.activations.writer import Rows
from tasks.errors import InputError
from tasks.harvest.batch import Batch, memory_holds_twice
from tasks.harvest.commit import HookRows
from tasks.harvest.config import HarvestConfig
from tasks.harvest.masks import kept_tokens
from tasks.harvest.side_stream import Mark, has_room, lend, mark, side_stream, to_device, to_host
from tasks.harvest.statistics import norms, sum_rows, with_positions
from tasks.lm.hooks import capture
from tasks.out_of_memory import is_out_of_memory

Counter = Callable[[int], None]
Capture = Callable[[PreTrainedModel, Sequence[str], Tensor], dict[str, Tensor]]
TokenIds = npt.NDArray[np.int32]
Index = npt.NDArray[np.int64]

# Rows that a core's cache holds in float32. One core, 2,048 x 576 bfloat16 to int8: 2.3 ms, and 4.5 all at once. On a GPU
# more rows mean fewer launches, and 8,192 x 4,096 take 128 MiB in float32.
_ROWS_AT_ONCE, _ROWS_AT_ONCE_ON_GPU = 256, 8192
# What a GPU has to have room for, in bytes of a shard: one in the model, one behind it, its copy in order, sums in float64.
_SHARDS_ON_GPU = 5


@dataclass(frozen=True, slots=True)
class Subject:
    """The model whose activations are taken, and what rows say of it."""

    model: PreTrainedModel
    name: str
    revision: str
    special_token_ids: Sequence[int]
    padding_token_id: int | None = None
    """The tokenizer's, where that token is nothing else besides."""
    batch: Batch = field(default_factory=Batch)
    capture: Capture | None = None
    """Takes activations of a model that several processes hold together; None: this process has all of it."""


@dataclass(slots=True)
class Captured:
    """One hook's activations of all tokens of a shard, on the device that they are looked at on."""

    d_in: int
    stored: Tensor
    """[n_sequences * context_length, stored_width], as they are stored."""
    squared_error: Tensor
    """[n_sequences * context_length], ||x - stored||^2, float32."""
    through: Mark = None
    """When the last of them is there, where the device has yet to come so far."""

    @classmethod
    def empty(cls, n: int, d_in: int, dtype: Dtype, device: torch.device) -> "Captured":
        """Room for ``n`` tokens."""
        return cls(d_in, empty_stored(n, d_in, dtype, device), torch.zeros(n, dtype=torch.float32, device=device))

    def put(self, first: int, activation: Tensor, dtype: Dtype) -> None:
        """Store activations [n, d_in] from place ``first`` on."""
        lossless = dtype in ("float32", str(activation.dtype).removeprefix("torch."))
        for part in torch.split(activation, _ROWS_AT_ONCE_ON_GPU if activation.is_cuda else _ROWS_AT_ONCE):
            stored, here = to_stored(part, dtype), slice(first, first + len(part))
            self.stored[here] = stored
            if not lossless:
                lost = part.float() - from_stored(stored, dtype).float()
                self.squared_error[here] = lost.square_().sum(dim=1)
            first += len(part)


def forward(subject: Subject, config: HarvestConfig, token_ids: TokenIds, count: Counter) -> dict[str, Captured]:
    """Activations at each hook, from as many forward passes as memory asks for; a GPU may be still at work on them.

    Args:
        subject: one call at a time may use it.
        config: hooks, storage dtype and sequences per forward pass.
        token_ids: [n_sequences, context_length].
        count: is told the tokens of each batch when it is through.

    Raises:
        InputError: a single sequence does not fit in memory.
    """
    context_length = token_ids.shape[1]
    found: dict[str, Captured] = {}
    for first, activations in _batches(subject, config, token_ids):
        found = found or _room(activations, token_ids.size, config.dtype)
        for hook, activation in activations.items():
            found[hook].put(first * context_length, activation.flatten(0, 1), config.dtype)
        count(activation.shape[0] * context_length)
    for there in found.values():
        there.through = mark(there.stored.device)
    return found


def rows(
    subject: Subject,
    config: HarvestConfig,
    recipe: str,
    token_ids: TokenIds,
    captured: dict[str, Captured],
    order: Callable[[int], Index] = np.arange,
) -> dict[str, HookRows]:
    """All hooks' kept rows with their sums, of the same tokens in the same order; ``captured`` is emptied.

    Args:
        subject: whose activations they are.
        config: the rules.
        recipe: hash of the activations' recipe.
        token_ids: [n_sequences, context_length].
        captured: what ``forward`` gave.
        order: of so many rows, which one is stored first, second and so on, in the order of the sequences.

    Raises:
        InputError: an activation is infinite or NaN as it would be stored.
    """
    device = next(iter(captured.values())).stored.device
    with side_stream(device, [there.through for there in captured.values()]):
        row_norms = {hook: _norms(there.stored, hook, config.dtype) for hook, there in captured.items()}
        by_position = {hook: found.reshape(token_ids.shape) for hook, found in row_norms.items()}
        kept, masked = kept_tokens(
            token_ids, list(by_position.values()), subject.special_token_ids, config, subject.padding_token_id
        )
        index = np.flatnonzero(kept)
        places = index[order(len(index))]
        sequence, position = np.divmod(places, token_ids.shape[1])
        summed, stored_at = (to_device(torch.from_numpy(of), device) for of in (index, places))

        def of(hook: str) -> HookRows:
            there = captured.pop(hook)
            activation = to_host(lend(there.stored).index_select(0, stored_at))
            found = Rows(
                as_array(activation, config.dtype),
                token_ids.reshape(-1)[places],
                sequence.astype(np.int64),
                position.astype(np.int32),
            )
            errors = lend(there.squared_error).cpu().numpy()[index]
            sums = sum_rows(there.stored, config.dtype, row_norms[hook][index], errors, summed)
            row_format = RowFormat(there.d_in, config.dtype, hook, subject.name, subject.revision, recipe)
            return HookRows(found, row_format, with_positions(sums, by_position[hook]), asdict(masked))

        return {hook: of(hook) for hook in list(captured)}


def _room(activations: dict[str, Tensor], n_tokens: int, dtype: Dtype) -> dict[str, Captured]:
    """Room for a shard's activations [n_tokens, d_in] by hook, where they are or, if that is short of it, in main memory."""
    widths = {hook: activation.shape[2] for hook, activation in activations.items()}
    device = next(iter(activations.values())).device
    n_bytes = n_tokens * sum(row_bytes(d_in, dtype) for d_in in widths.values())
    home = device if has_room(device, _SHARDS_ON_GPU * n_bytes) else torch.device("cpu")
    return {hook: Captured.empty(n_tokens, d_in, dtype, home) for hook, d_in in widths.items()}


def _batches(subject: Subject, config: HarvestConfig, token_ids: TokenIds) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Activations [batch, context, d_in] by hook, with the place of the first sequence of each batch."""
    all_ids, first = to_device(torch.from_numpy(token_ids.astype(np.int64)), subject.model.device), 0
    while first < len(all_ids):
        ids = all_ids[first : first + subject.batch.sequences(config.batch_sequences)]
        if config.batch_sequences is None and subject.batch.asks_for(len(ids)):
            activations = _timed(subject, config, ids)
        else:
            activations = _capture(subject, config, ids)
        if activations is None:
            subject.batch.halve(*ids.shape)
            continue
        yield first, activations
        first += len(ids)


def _timed(subject: Subject, config: HarvestConfig, ids: Tensor) -> dict[str, Tensor] | None:
    """What ``_capture`` gives; the search for the best number of sequences learns how long it took."""
    device = subject.model.device
    _wait_for(device)
    began = time.perf_counter()
    activations = _capture(subject, config, ids)
    _wait_for(device)
    if activations is not None:
        seconds = time.perf_counter() - began
        room = 2 * ids.numel() <= config.shard_tokens and memory_holds_twice(device, ids.numel())
        subject.batch.took(seconds, holds_twice=room)
    return activations


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _capture(subject: Subject, config: HarvestConfig, ids: Tensor) -> dict[str, Tensor] | None:
    """Activations of one batch, None where there is no memory for it."""
    try:
        return (subject.capture or capture)(subject.model, config.hooks, ids)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return None


def _norms(stored: Tensor, hook: str, dtype: Dtype) -> npt.NDArray[np.float32]:
    """Norms of all rows, every one of which must be finite."""
    row_norms = norms(stored, dtype)
    # They are needed anyway, and tell it: torch.isfinite took 90 ms of a core for 32,768 x 576 bfloat16.
    suspects = np.flatnonzero(~np.isfinite(row_norms))  # a finite row may have a norm that float32 does not hold
    suspected = stored.index_select(0, torch.from_numpy(suspects).to(stored.device))
    if not np.isfinite(to_float32(as_array(suspected, dtype), dtype)).all():
        raise InputError(
            f"An activation at {hook} is not finite in {dtype}. Set harvest.dtype to "
            f"{'bfloat16 or float32' if dtype == 'float16' else 'float32'}, and model.dtype too if that does not help."
        )
    return row_norms
