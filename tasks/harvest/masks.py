"""Which tokens' activations are left out, by recorded rules, and how many each rule takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.harvest.config import HarvestConfig

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Masked:
    """Tokens left out, each counted under the first rule that took it."""

    first_position: int
    padding: int
    special: int
    norm_outlier: int


def kept_tokens(
    token_ids: npt.NDArray[np.int32],
    row_norms: Sequence[npt.NDArray[np.float32]],
    special_token_ids: Sequence[int],
    config: HarvestConfig,
    padding_token_id: int | None = None,
) -> tuple[Bools, Masked]:
    """Mask [n_sequences, context_length] of the tokens that are kept, and the counts of the others.

    The median that norms are held against is that of the shard's tokens that the other rules leave, so it depends on
    nothing but the shard. Padding is never kept. A token that is an outlier at one hook is left out at all of them: so all
    hold the same tokens, row by row, which crosscoders and transcoders need.

    Args:
        token_ids: [n_sequences, context_length].
        row_norms: of each hook [n_sequences, context_length].
        special_token_ids: the tokenizer's.
        config: the rules.
        padding_token_id: the tokenizer's, if it has one that is nothing else besides.
    """
    kept = np.ones(token_ids.shape, bool)

    def leave_out(taken: Bools) -> int:
        before = np.count_nonzero(kept)
        np.logical_and(kept, ~taken, out=kept)
        return int(before - np.count_nonzero(kept))

    first = np.arange(token_ids.shape[1]) == 0
    left_out = Masked(
        first_position=leave_out(np.broadcast_to(first & config.drop_first_position, kept.shape)),
        padding=leave_out(np.isin(token_ids, [] if padding_token_id is None else [padding_token_id])),
        special=leave_out(np.isin(token_ids, list(special_token_ids)) & config.drop_special_tokens),
        norm_outlier=leave_out(np.any([_outliers(norms, kept, config.max_norm_multiple) for norms in row_norms], axis=0)),
    )
    return kept, left_out


def _outliers(row_norms: npt.NDArray[np.float32], kept: Bools, multiple: float | None) -> Bools:
    if multiple is None or not kept.any():
        return np.zeros_like(kept)
    return row_norms > multiple * np.median(row_norms[kept])
