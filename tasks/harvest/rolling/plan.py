"""How a harvest is cut into windows, and how many bytes these take."""

from collections.abc import Sequence

from tasks.activations.disk_space import bytes_needed
from tasks.errors import InputError
from tasks.harvest.config import HarvestConfig
from tasks.harvest.shards import Shard

# Page headers: 32,768 rows of 576 x bfloat16 take 6 KB more than their columns, in 8 row groups. The rest is a margin.
_PER_OBJECT, _PER_ROW_GROUP, _PAGES = 8192, 1024, 1.001


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
        around = len(widths) * (2 * _PER_OBJECT + groups * _PER_ROW_GROUP) + records
        found += round(_PAGES * bytes_needed(tokens, widths, settings.dtype)) + around
    return found


def windows_at_once(
    windows: Sequence[Sequence[Shard]],
    kept: Sequence[Shard],
    widths: Sequence[int],
    settings: HarvestConfig,
    context_length: int,
    actors: int,
) -> int:
    """How many windows fit into ``harvest.window_bytes`` beside what is kept, and a shard that each actor writes again.

    Raises:
        InputError: not one does.
    """
    budget = settings.window_bytes or 0
    held = require_kept_fit(kept, widths, settings, context_length)
    largest = max(most_bytes(window, widths, settings, context_length) for window in windows)
    again = actors * max(most_bytes([shard], widths, settings, context_length) for window in windows for shard in window)
    fitting = (budget - held - again) // largest
    if fitting < 1:
        raise InputError(
            f"harvest.window_bytes is {budget:,}, but a window takes up to {largest:,} bytes, beside {held:,} of held-out "
            f"and sampled rows and {again:,} for shards in the making. Lower train.window_tokens (or harvest.shard_tokens), "
            f"or raise harvest.window_bytes to {held + again + 2 * largest:,}."
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
