import json
from functools import reduce
from operator import add
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.activations.schema import Dtype, from_float32, no_rows, to_float32
from tasks.activations.tensors import as_tensor
from tasks.harvest.shards import plan_shards
from tasks.harvest.statistics import Sums, norms, squared_errors, sum_rows, with_positions

DTYPES: list[Dtype] = ["bfloat16", "float16", "float32", "int8"]


def sums(exact: np.ndarray, dtype: Dtype = "float32", context_length: int = 1) -> Sums:
    """Of rows that fill whole sequences."""
    stored = as_tensor(from_float32(exact, dtype))
    row_norms = norms(stored, dtype)
    found = sum_rows(stored, dtype, row_norms, squared_errors(exact, stored, dtype))
    return with_positions(found, row_norms.reshape(-1, context_length))


def normal(seed: int, n: int, d_in: int, mean: float = 20) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d_in)) * 3 + mean).astype(np.float32)


def parts(rows: np.ndarray, cuts: list[int], size: int) -> list[np.ndarray]:
    """Rows cut at sequences of ``size`` tokens; some parts may be empty."""
    return np.split(rows, [cut * size for cut in sorted(cuts)])


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 5), st.sampled_from(DTYPES))
def test_statistics_are_those_of_the_stored_rows(seed: int, n: int, d_in: int, dtype: Dtype) -> None:
    exact = normal(seed, n, d_in)
    rows = to_float32(from_float32(exact, dtype), dtype).astype(np.float64)
    found, centred = sums(exact, dtype).statistics(), rows - rows.mean(axis=0)
    assert found["count"] == n
    assert found["mean"] == pytest.approx(rows.mean(axis=0), rel=1e-12)
    assert found["mean_square_norm"] == pytest.approx((rows**2).sum(axis=1).mean(), rel=1e-12)
    assert found["variance"] == pytest.approx(np.trace(centred.T @ centred / n), rel=1e-9, abs=1e-9)
    assert found["median_norm"] == pytest.approx(np.median(np.linalg.norm(rows, axis=1)), rel=1e-6)
    if found["variance"] > 1e-6:
        gamma = np.linalg.norm(rows.mean(axis=0)) / np.sqrt((centred**2).sum(axis=1).mean())
        assert found["gamma"] == pytest.approx(gamma, rel=1e-6)
        assert found["storage_error"] == pytest.approx(((exact - rows) ** 2).sum() / (centred**2).sum(), rel=1e-5)


@given(
    st.integers(0, 2**32),
    st.integers(1, 30),
    st.integers(1, 4),
    st.lists(st.integers(0, 30), max_size=6),
    st.randoms(use_true_random=False),
)
def test_however_rows_fall_to_shards_the_merged_statistics_are_those_of_the_whole(
    seed: int, n_sequences: int, context_length: int, cuts: list[int], random: Random
) -> None:
    rows = normal(seed, n_sequences * context_length, 3)
    cut = parts(rows, [min(c, n_sequences) for c in cuts], context_length)
    random.shuffle(cut)
    whole, merged = (
        reduce(add, found).statistics()
        for found in ([sums(rows, "int8", context_length)], [sums(part, "int8", context_length) for part in cut])
    )
    for name in ("count", "mean", "mean_square_norm", "position_mean_norm"):
        assert merged[name] == pytest.approx(whole[name], rel=1e-12), name
    # Of rows whose mean is far from zero, the difference of two large sums keeps the more digits the larger it is.
    absolute = 1e-12 * whole["mean_square_norm"]
    assert merged["variance"] == pytest.approx(whole["variance"], rel=1e-12, abs=absolute)


def test_the_median_of_several_shards_is_the_mean_of_theirs_weighted_by_rows() -> None:
    low, high = np.ones((3, 1), np.float32), np.full((1, 1), 5, np.float32)
    assert (sums(low) + sums(high)).statistics()["median_norm"] == 2


def test_a_shard_whose_rows_are_all_left_out_adds_nothing() -> None:
    nothing = sum_rows(as_tensor(no_rows(2, "int8")), "int8", np.empty(0, np.float32))
    some = sums(np.array([[3.0, 0], [1, 0]], np.float32))
    empty = with_positions(nothing, np.ones((2, 1), np.float32))
    assert (empty + some).statistics() | {"position_mean_norm": None} == some.statistics() | {"position_mean_norm": None}


def test_sums_are_the_same_bits_on_any_number_of_threads() -> None:
    rows = normal(0, 5_000, 96)
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3, 8):
            torch.set_num_threads(n_threads)
            found.append(sums(rows, "bfloat16").to_json())
    finally:
        torch.set_num_threads(before)
    assert found == found[:1] * 4


def test_sums_survive_json_exactly_and_in_few_bytes() -> None:
    found = sums(normal(0, 12, 576), context_length=4)
    text = json.dumps(found.to_json())
    assert Sums.from_json(json.loads(text)).to_json() == found.to_json()
    assert Sums.from_json(json.loads(text)).statistics() == found.statistics()
    assert len(text) < 576 * 8 * 4 / 3 + 400


def test_sums_of_some_rows_are_those_of_these_rows_alone() -> None:
    rows = as_tensor(from_float32(normal(0, 3_000, 7), "int8"))
    index = torch.arange(2_999, 0, -2)
    there = norms(rows, "int8")[index]
    assert sum_rows(rows, "int8", there, index=index).to_json() == sum_rows(rows[index], "int8", there).to_json()


def test_gamma_is_the_mean_over_the_deviation() -> None:
    assert sums(np.array([[3.0, 0], [1, 0]], np.float32)).statistics()["gamma"] == 2.0


def test_position_norms_show_the_sink() -> None:
    assert sums(np.array([[9.0], [1], [9], [1]], np.float32), context_length=2).statistics()["position_mean_norm"] == [9, 1]


def test_what_is_stored_as_it_is_has_no_storage_error() -> None:
    rows = np.array([[1.0, 2], [4, -8]], np.float32)
    assert [sums(rows, dtype).statistics()["storage_error"] for dtype in ("bfloat16", "float16", "float32")] == [0, 0, 0]
    assert 0 < sums(rows, "int8").statistics()["storage_error"] < 1e-4


def test_a_row_that_is_not_finite_has_no_finite_norm() -> None:
    rows = np.array([[1, np.inf], [np.nan, 1], [3, 4], [1e6, 0]], np.float32)
    assert np.isfinite(norms(as_tensor(rows), "float32")).tolist() == [False, False, True, True]
    assert np.isfinite(norms(as_tensor(from_float32(rows, "float16")), "float16")).tolist() == [False, False, True, False]
    assert np.isfinite(norms(as_tensor(from_float32(rows, "int8")), "int8")).tolist() == [False, False, True, True]


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
