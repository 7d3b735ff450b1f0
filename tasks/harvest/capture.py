"""One shard of sequences through the model: rows, masks and sums for every hook. No Ray, no storage."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from tasks.errors import InputError
from tasks.harvest.commit import HookRows
from tasks.harvest.config import HarvestConfig
from tasks.harvest.masks import kept_tokens
from tasks.harvest.shards import Shard
from tasks.harvest.statistics import norms, sum_rows, with_positions
from tasks.lm.hooks import capture
from tasks.store.schema import Array, Dtype, RowFormat, storage_dtype
from tasks.store.writer import Rows

Counter = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """The model whose activations are taken, and what rows say of it."""

    model: PreTrainedModel
    name: str
    revision: str
    special_token_ids: Sequence[int]


def harvest_shard(
    subject: Subject,
    config: HarvestConfig,
    recipe: str,
    shard: Shard,
    token_ids: npt.NDArray[np.int32],
    count: Counter,
) -> dict[str, HookRows]:
    """All hooks' kept rows of one shard, in the order of its sequences.

    ``token_ids`` is [n_sequences, context_length]; ``count`` is told the tokens of each batch when it is through.

    Raises:
        InputError: an activation is infinite or NaN as it would be stored.
    """
    activations = _forward(subject.model, config, token_ids, count)
    return {
        hook: _rows(subject, config, recipe, shard, hook, token_ids, activation) for hook, activation in activations.items()
    }


def _forward(
    model: PreTrainedModel, config: HarvestConfig, token_ids: npt.NDArray[np.int32], count: Counter
) -> dict[str, Array]:
    """Activations [n_sequences * context_length, d_in] by hook, in the stored dtype."""
    n, context_length = token_ids.shape
    ids = torch.from_numpy(token_ids.astype(np.int64))
    found: dict[str, Array] = {}
    for start in range(0, n, config.batch_sequences):
        batch = ids[start : start + config.batch_sequences]
        for hook, activation in capture(model, config.hooks, batch.to(model.device)).items():
            rows = _to_stored(activation.flatten(0, 1), config.dtype)
            if hook not in found:
                found[hook] = np.empty((n * context_length, rows.shape[1]), rows.dtype)
            first = start * context_length
            found[hook][first : first + len(rows)] = rows
        count(batch.numel())
    return found


def _to_stored(activation: torch.Tensor, dtype: Dtype) -> Array:
    stored = activation.to(getattr(torch, dtype)).cpu().contiguous()
    if not torch.isfinite(stored).all():
        raise InputError(
            f"An activation is not finite in {dtype}. Set harvest.dtype to "
            f"{'bfloat16 or float32' if dtype == 'float16' else 'float32, and model.dtype too'}."
        )
    bits = stored.view(torch.int16) if dtype == "bfloat16" else stored
    return bits.numpy().view(storage_dtype(dtype))


def _rows(
    subject: Subject,
    config: HarvestConfig,
    recipe: str,
    shard: Shard,
    hook: str,
    token_ids: npt.NDArray[np.int32],
    activation: Array,
) -> HookRows:
    n, context_length = token_ids.shape
    row_norms = norms(activation, config.dtype)
    kept, masked = kept_tokens(token_ids, row_norms.reshape(n, context_length), subject.special_token_ids, config)
    index = np.flatnonzero(kept)
    rows = Rows(
        activation[index],
        token_ids.reshape(-1)[index],
        (index // context_length).astype(np.int64),
        (index % context_length).astype(np.int32),
    )
    sums = with_positions(sum_rows(rows.activation, config.dtype, row_norms[index]), row_norms.reshape(n, context_length))
    row_format = RowFormat(activation.shape[1], config.dtype, hook, subject.name, subject.revision, recipe)
    return HookRows(rows, row_format, sums, asdict(masked))
