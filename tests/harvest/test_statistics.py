import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.harvest.config import HarvestConfig
from tasks.harvest.masks import Masked, kept_tokens
from tasks.harvest.shards import plan_shards
from tasks.harvest.statistics import Sums, merge, norms, sum_rows, with_positions
from tasks.store.schema import from_float32, to_float32


def sums(rows: np.ndarray) -> Sums:
    return sum_rows(rows, "float32", norms(rows, "float32"))


@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(1, 5), st.data())
def test_merged_shards_say_what_the_whole_says(seed: int, n: int, d_in: int, data: st.DataObject) -> None:
    rows = (np.random.default_rng(seed).normal(size=(n, d_in)) * 3 + 20).astype(np.float32)
    cut = data.draw(st.integers(1, n - 1))
    merged = merge([sums(rows[:cut]), sums(rows[cut:])]).statistics()
    exact = rows.astype(np.float64)
    assert merged["count"] == n
    assert merged["mean"] == pytest.approx(exact.mean(axis=0), rel=1e-12)
    assert merged["mean_square_norm"] == pytest.approx((exact**2).sum(axis=1).mean(), rel=1e-6)
    assert merged["variance"] == pytest.approx(exact.var(axis=0).sum(), rel=1e-3)


def test_sums_survive_json_exactly() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    found = with_positions(sums(rows), norms(rows, "float32").reshape(3, 4))
    assert Sums.from_json(found.to_json()).to_json() == found.to_json()


def test_gamma_is_the_mean_over_the_deviation() -> None:
    assert sums(np.array([[3.0, 0], [1, 0]], np.float32)).statistics()["gamma"] == 2.0


def test_position_norms_show_the_sink() -> None:
    rows = np.array([[9.0], [1], [9], [1]], np.float32)
    found = with_positions(sums(rows), norms(rows, "float32").reshape(2, 2)).statistics()
    assert found["position_mean_norm"] == [9.0, 1.0]


def test_each_masked_token_counts_under_the_first_rule_that_takes_it() -> None:
    token_ids = np.array([[0, 5, 0, 5], [5, 5, 5, 5]], np.int32)
    row_norms = np.array([[500, 1, 1, 1], [1, 1, 99, 1]], np.float32)
    kept, masked = kept_tokens(token_ids, row_norms, [0], HarvestConfig())
    assert kept.tolist() == [[False, True, False, True], [False, True, False, True]]
    assert masked == Masked(first_position=2, special=1, norm_outlier=1)


def test_masks_can_be_turned_off() -> None:
    config = HarvestConfig(drop_first_position=False, drop_special_tokens=False, max_norm_multiple=None)
    kept, masked = kept_tokens(np.zeros((1, 3), np.int32), np.array([[900.0, 1, 1]], np.float32), [0], config)
    assert kept.all()
    assert masked == Masked(0, 0, 0)


@given(
    st.lists(st.integers(1, 40), max_size=3),
    st.lists(st.integers(1, 9), max_size=3),
    st.integers(1, 64),
    st.integers(1, 100),
)
def test_shards_cover_each_sequence_once(
    train: list[int], held_out: list[int], context_length: int, shard_tokens: int
) -> None:
    hashes = np.arange(2 * (sum(train) + sum(held_out)), dtype=np.int64).view("V16")
    shards = plan_shards({"train": train, "eval": held_out}, context_length, shard_tokens, hashes)
    covered = sorted(s for shard in shards for s in range(shard.first_sequence, shard.first_sequence + shard.n_sequences))
    assert covered == list(range(sum(train) + sum(held_out)))
    assert len({shard.commit_key for shard in shards}) == len(shards)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), st.sampled_from(["bfloat16", "float16", "float32"])
)
def test_stored_numbers_come_back_to_the_precision_of_their_type(values: list[float], dtype: str) -> None:
    exact = np.array(values, np.float32)
    back = to_float32(from_float32(exact, dtype), dtype)
    precision = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 0}[dtype]
    assert (np.abs(back - exact) <= np.abs(exact) * precision + 1e-7).all()
