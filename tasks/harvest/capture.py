"""One shard of sequences through the model: rows, masks and sums for every hook. No Ray, no storage.

``forward`` needs the model, ``rows`` only a core: a shard's rows can be made while the next shard is in the model. CPU time
of 32,768 tokens at one hook of 576 x bfloat16 (SmolLM2-135M up to layer 8): the model 9.0 s, ``rows`` 0.03 s. Memory holds
what ``forward`` stored of all hooks and what ``rows`` made of it, hook by hook, beside the model's work on one batch.

Where batches are cut did not matter: of that model, in bfloat16 and float32 on one thread, 1, 2, 4 and 8 sequences at once
gave the same bits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.activations.schema import Array, Dtype, RowFormat, storage_dtype, stored_width, to_float32
from tasks.activations.tensors import as_array, from_stored, to_stored
from tasks.activations.writer import Rows
from tasks.errors import InputError
from tasks.harvest.batch import Batch, memory_holds_twice
from tasks.harvest.commit import HookRows
from tasks.harvest.config import HarvestConfig
from tasks.harvest.masks import kept_tokens
from tasks.harvest.statistics import norms, sum_rows, with_positions
from tasks.lm.hooks import capture

Counter = Callable[[int], None]
TokenIds = npt.NDArray[np.int32]

# Rows that a core's cache holds in float32. One core, 2,048 x 576 bfloat16 to int8: 2.3 ms, and 4.5 all at once.
_ROWS_AT_ONCE = 256


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


@dataclass(frozen=True, slots=True)
class Captured:
    """One hook's activations of all tokens of a shard."""

    d_in: int
    stored: Array
    """[n_sequences * context_length, stored_width], as they are stored."""
    squared_error: npt.NDArray[np.float32]
    """[n_sequences * context_length], ||x - stored||^2."""

    @classmethod
    def empty(cls, n: int, d_in: int, dtype: Dtype) -> "Captured":
        """Room for ``n`` tokens."""
        return cls(d_in, np.empty((n, stored_width(d_in, dtype)), storage_dtype(dtype)), np.zeros(n, np.float32))

    def put(self, first: int, activation: Tensor, dtype: Dtype) -> None:
        """Store activations [n, d_in] from place ``first`` on."""
        lossless = dtype in ("float32", str(activation.dtype).removeprefix("torch."))
        for part in torch.split(activation, _ROWS_AT_ONCE if activation.device.type == "cpu" else len(activation)):
            stored, here = to_stored(part, dtype), slice(first, first + len(part))
            self.stored[here] = as_array(stored, dtype)
            if not lossless:
                lost = part.float() - from_stored(stored, dtype).float()
                self.squared_error[here] = lost.square_().sum(dim=1).cpu().numpy()
            first += len(part)


def forward(subject: Subject, config: HarvestConfig, token_ids: TokenIds, count: Counter) -> dict[str, Captured]:
    """Activations at each hook, from as many forward passes as memory asks for.

    Args:
        subject: one call at a time may use it.
        config: hooks, storage dtype and sequences per forward pass.
        token_ids: [n_sequences, context_length].
        count: is told the tokens of each batch when it is through.

    Raises:
        InputError: a single sequence does not fit in memory.
    """
    n, context_length = token_ids.shape
    found: dict[str, Captured] = {}
    for first, activations in _batches(subject, config, token_ids):
        for hook, activation in activations.items():
            if hook not in found:
                found[hook] = Captured.empty(n * context_length, activation.shape[2], config.dtype)
            found[hook].put(first * context_length, activation.flatten(0, 1), config.dtype)
        count(activation.shape[0] * context_length)
    return found


def rows(
    subject: Subject, config: HarvestConfig, recipe: str, token_ids: TokenIds, captured: dict[str, Captured]
) -> dict[str, HookRows]:
    """All hooks' kept rows with their sums, of the same tokens in the order of the sequences; ``captured`` is emptied.

    Raises:
        InputError: an activation is infinite or NaN as it would be stored.
    """
    row_norms = {hook: _norms(found.stored, hook, config.dtype).reshape(token_ids.shape) for hook, found in captured.items()}
    kept, masked = kept_tokens(
        token_ids, list(row_norms.values()), subject.special_token_ids, config, subject.padding_token_id
    )
    index = np.flatnonzero(kept)
    sequence, position = np.divmod(index, token_ids.shape[1])

    def of(hook: str) -> HookRows:
        there = captured.pop(hook)
        found = Rows(
            there.stored[index],
            token_ids.reshape(-1)[index],
            sequence.astype(np.int64),
            position.astype(np.int32),
        )
        sums = sum_rows(found.activation, config.dtype, row_norms[hook].reshape(-1)[index], there.squared_error[index])
        row_format = RowFormat(there.d_in, config.dtype, hook, subject.name, subject.revision, recipe)
        return HookRows(found, row_format, with_positions(sums, row_norms[hook]), asdict(masked))

    return {hook: of(hook) for hook in list(captured)}


def _batches(subject: Subject, config: HarvestConfig, token_ids: TokenIds) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Activations [batch, context, d_in] by hook, with the place of the first sequence of each batch."""
    first = 0
    while first < len(token_ids):
        size = subject.batch.sequences(config.batch_sequences)
        ids = torch.from_numpy(token_ids[first : first + size].astype(np.int64))
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
        return capture(subject.model, config.hooks, ids.to(subject.model.device))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
    except MemoryError:
        pass
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _OUT_OF_CPU_MEMORY):
            raise
    return None


# What torch's own allocator says, and oneDNN's when its scratch does not fit.
_OUT_OF_CPU_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "could not create a memory object", "std::bad_alloc")


def _norms(stored: Array, hook: str, dtype: Dtype) -> npt.NDArray[np.float32]:
    """Norms of all rows, every one of which must be finite."""
    row_norms = norms(stored, dtype)
    # They are needed anyway, and tell it: torch.isfinite took 90 ms of a core for 32,768 x 576 bfloat16.
    suspects = ~np.isfinite(row_norms)  # a finite row may have a norm that float32 does not hold
    if suspects.any() and not np.isfinite(to_float32(stored[suspects], dtype)).all():
        raise InputError(
            f"An activation at {hook} is not finite in {dtype}. Set harvest.dtype to "
            f"{'bfloat16 or float32' if dtype == 'float16' else 'float32'}, and model.dtype too if that does not help."
        )
    return row_norms
