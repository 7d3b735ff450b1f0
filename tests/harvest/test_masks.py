import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.harvest.config import HarvestConfig
from tasks.harvest.masks import Masked, kept_tokens

PAD, SPECIAL = 1, [0, 1, 2]


@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
    st.none() | st.floats(1.01, 4),
    st.none() | st.just(PAD),
)
def test_every_token_is_kept_or_counted_under_one_rule(
    seed: int, n: int, context_length: int, first: bool, special: bool, multiple: float | None, pad: int | None
) -> None:
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, 6, (n, context_length), dtype=np.int32)
    row_norms = rng.lognormal(sigma=1.5, size=(n, context_length)).astype(np.float32)
    config = HarvestConfig(drop_first_position=first, drop_special_tokens=special, max_norm_multiple=multiple)
    kept, masked = kept_tokens(token_ids, [row_norms], SPECIAL, config, pad)
    counts = (masked.first_position, masked.padding, masked.special, masked.norm_outlier)
    assert kept.sum() + sum(counts) == token_ids.size
    assert masked.first_position == (n if first else 0)
    assert not (first and kept[:, 0].any())
    assert not np.isin(token_ids[kept], SPECIAL if special else [] if pad is None else [pad]).any()
    left = np.isin(token_ids, ([] if pad is None else [pad]) + (SPECIAL if special else []), invert=True)
    left[:, 0] &= not first
    limit = np.inf if multiple is None or not left.any() else multiple * np.median(row_norms[left])
    assert np.array_equal(kept, left & (row_norms <= limit))


def test_each_masked_token_counts_under_the_first_rule_that_takes_it() -> None:
    token_ids = np.array([[0, 5, 0, 5, 1], [1, 5, 5, 5, 5]], np.int32)
    row_norms = np.array([[500, 1, 1, 1, 99], [1, 1, 99, 1, 1]], np.float32)
    kept, masked = kept_tokens(token_ids, [row_norms], SPECIAL, HarvestConfig(), PAD)
    assert kept.tolist() == [[False, True, False, True, False], [False, True, False, True, True]]
    assert masked == Masked(first_position=2, padding=1, special=1, norm_outlier=1)


def test_a_sink_does_not_raise_the_median_that_it_is_held_against() -> None:
    row_norms = np.array([[900.0, 1, 1, 11, 9]], np.float32)
    kept, masked = kept_tokens(np.full((1, 5), 7, np.int32), [row_norms], SPECIAL, HarvestConfig(max_norm_multiple=10))
    assert kept.tolist() == [[False, True, True, True, True]]
    assert masked.norm_outlier == 0
    kept, masked = kept_tokens(np.full((1, 5), 7, np.int32), [row_norms], SPECIAL, HarvestConfig(max_norm_multiple=2))
    assert kept.tolist() == [[False, True, True, False, True]]


def test_masks_can_be_turned_off_but_padding_is_never_kept() -> None:
    config = HarvestConfig(drop_first_position=False, drop_special_tokens=False, max_norm_multiple=None)
    token_ids, row_norms = np.array([[0, 0, 1]], np.int32), np.array([[900.0, 1, 1]], np.float32)
    assert kept_tokens(token_ids, [row_norms], SPECIAL, config)[0].all()
    kept, masked = kept_tokens(token_ids, [row_norms], SPECIAL, config, PAD)
    assert kept.tolist() == [[True, True, False]]
    assert masked == Masked(0, 1, 0, 0)


def test_an_outlier_at_one_hook_is_left_out_at_all() -> None:
    token_ids, config = np.full((1, 5), 7, np.int32), HarvestConfig(max_norm_multiple=4)
    row_norms = [np.array([[1.0, 1, 9, 1, 1]], np.float32), np.array([[30.0, 30, 30, 30, 500]], np.float32)]
    kept, masked = kept_tokens(token_ids, row_norms, SPECIAL, config)
    assert kept.tolist() == [[False, True, False, True, False]]
    assert masked.norm_outlier == 2
