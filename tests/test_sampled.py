"""Samples of test cases: the same everywhere for one commit, every kind among them, and in time every case."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sampled import ALL, SEED, sampled, seed

CASES = list(product("abcd", range(6), [True, False]))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=30), st.floats(0, 1), st.integers(0, 99))
def test_a_sample_keeps_order_and_size_and_each_value_of_each_axis(
    cases: list[tuple[str, int]], share: float, commit: int
) -> None:
    found = sampled(cases, share, by=str(commit))
    left = iter(cases)
    assert all(case in left for case in found)  # in their order, none twice
    assert len(found) >= share * len(cases)
    for axis in (0, 1):
        values = {case[axis] for case in cases}
        if 2 * len(values) <= len(cases):
            assert {case[axis] for case in found} == values


def test_another_commit_takes_another_sample_and_in_time_each_case_comes_by() -> None:
    samples = [sampled(CASES, by=f"{commit:040x}") for commit in range(60)]
    assert {len(sample) for sample in samples} == {12}
    assert len({tuple(sample) for sample in samples}) > 50
    assert {case for sample in samples for case in sample} == set(CASES)


def test_a_kind_is_never_left_out_and_at_least_so_many_are_taken() -> None:
    assert {case % 5 for case in sampled(range(100), 0.01, kind=lambda case: case % 5, by="x")} == set(range(5))
    assert len(sampled(range(100), 0.01, at_least=7, by="x")) == 7
    assert sampled(range(3), 0.01, at_least=7, by="x") == [0, 1, 2]
    assert sampled([pytest.param(value, {"of": value}, id=str(value)) for value in (1, 2)], 1.0, by="x")


def test_the_environment_says_which_seed_and_whether_to_take_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seed.cache_clear()
    monkeypatch.setenv(SEED, "abc")
    monkeypatch.delenv(ALL, raising=False)
    assert sampled(CASES) == sampled(CASES, by="abc") != CASES
    monkeypatch.setenv(ALL, "1")
    assert sampled(CASES) == CASES
    seed.cache_clear()
