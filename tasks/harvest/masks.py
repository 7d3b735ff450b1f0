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
    special: int
    norm_outlier: int


def kept_tokens(
    token_ids: npt.NDArray[np.int32],
    row_norms: npt.NDArray[np.float32],
    special_token_ids: Sequence[int],
    config: HarvestConfig,
) -> tuple[Bools, Masked]:
    """Mask [n_sequences, context_length] of the tokens that are kept, and the counts of the others.

    ``token_ids`` and ``row_norms`` have the mask's shape. The median that norms are held against is that of the shard's
    tokens that the first two rules leave, so it depends on nothing but the shard.
    """
    first = np.zeros(token_ids.shape, bool)
    if config.drop_first_position:
        first[:, 0] = True
    special = np.zeros_like(first)
    if config.drop_special_tokens:
        special = np.isin(token_ids, np.array(special_token_ids, np.int32)) & ~first
    kept = ~(first | special)
    outlier = np.zeros_like(first)
    if config.max_norm_multiple is not None and kept.any():
        outlier = kept & (row_norms > config.max_norm_multiple * np.median(row_norms[kept]))
    return kept & ~outlier, Masked(int(first.sum()), int(special.sum()), int(outlier.sum()))
