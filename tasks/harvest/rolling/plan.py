"""How a harvest is cut into windows, and how many bytes these take."""

from collections.abc import Sequence

from tasks.activations.disk_space import bytes_needed
from tasks.errors import InputError
from tasks.harvest.config import HarvestConfig
from tasks.harvest.shards import Shard

# Footer, page headers and what a record holds beside sums: 8 row groups of 64 x 16 float32 take 6 KB more than their
# columns, as do 8 of 4,096 x 576 bfloat16. The rest is a margin.
_PER_OBJECT, _PER_ROW_GROUP, _PAGES = 4096, 768, 1.001
# A window's manifest: a line for each number of the mean and of the positions' norms; of a window that is gone, its shards.
_PER_SEALED, _PER_NUMBER, _PER_GONE, _PER_SHARD = 2048, 30, 96, 200


def plan_windows(planned: Sequence[Shard], window_tokens: int, context_length: int) -> list[list[Shard]]:
    """The training shards in their order, in windows of up to ``window_tokens``, but of one shard at least."""
    windows: list[list[Shard]] = []
    left = 0
    for shard in planned:
        if shard.split != "train":
            continue
        tokens = shard.n_sequences * context_length
        if not windows or tokens > left:
            windows.append([])
            left = window_tokens
        windows[-1].append(shard)
        left -= tokens
    return windows


def most_bytes(shards: Sequence[Shard], widths: Sequence[int], settings: HarvestConfig, context_length: int) -> int:
    """Bytes that shards take with their commit records, at most: if no token is left out.

    Args:
        shards: each of which is stored.
        widths: ``d_in`` of each hook.
        settings: dtype and row groups.
        context_length: tokens of a sequence.
    """
    found = 0
    for shard in shards:
        tokens = shard.n_sequences * context_length
        groups = -(-tokens // settings.row_group_rows)
        # A record holds a hook's sums in base64 of float64: of each feature, and two of each position.
        records = sum(11 * width + 22 * context_length for width in widths)
        around = len(widths) * (_PER_OBJECT + groups * _PER_ROW_GROUP) + records
        found += round(_PAGES * bytes_needed(tokens, widths, settings.dtype)) + around
    return found


def windows_at_once(
    windows: Sequence[Sequence[Shard]],
    kept: Sequence[Shard],
    widths: Sequence[int],
    settings: HarvestConfig,
    context_length: int,
    actors: int,
    passes: int = 1,
) -> int:
    """How many windows fit into ``harvest.window_bytes``.

    Beside them are what is kept, what is told of windows that are gone, and a shard that each actor writes again.

    Raises:
        InputError: not one does.
    """
    budget = settings.window_bytes or 0
    manifest = sum(_PER_SEALED + _PER_NUMBER * (width + context_length) for width in widths)
    told = len(widths) * sum(_PER_GONE + _PER_SHARD * len(window) for window in windows)
    held = require_kept_fit(kept, widths, settings, context_length) + passes * told + manifest
    largest = manifest + max(most_bytes(window, widths, settings, context_length) for window in windows)
    again = actors * max(most_bytes([shard], widths, settings, context_length) for window in windows for shard in window)
    fitting = (budget - held - again) // largest
    if fitting < 1:
        raise InputError(
            f"harvest.window_bytes is {budget:,}, but a window takes up to {largest:,} bytes, beside {held:,} of held-out "
            f"and sampled rows and manifests and {again:,} for shards in the making. Lower train.window_tokens (or "
            f"harvest.shard_tokens), or raise harvest.window_bytes to {held + again + 2 * largest:,}."
        )
    return fitting


def require_kept_fit(kept: Sequence[Shard], widths: Sequence[int], settings: HarvestConfig, context_length: int) -> int:
    """Bytes of the rows that stay, at most.

    Raises:
        InputError: they alone take more than ``harvest.window_bytes``.
    """
    held, budget = most_bytes(kept, widths, settings, context_length), settings.window_bytes or 0
    if held > budget:
        raise InputError(
            f"harvest.window_bytes is {budget:,}, but held-out rows and a sample of training rows, which stay, take up to "
            f"{held:,} bytes. Lower text.eval_fraction or raise harvest.window_bytes."
        )
    return held
