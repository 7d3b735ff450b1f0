import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.report.numbers import compact, duration, number, percent, shown, significant

DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0912, "0.09120"),
        (31.97, "31.97"),
        (1234.5, "1,234"),
        (102_144, "102,144"),
        (3.2e-7, "3.200e-07"),
        (0, "0"),
        (None, DASH),
    ],
)
def test_numbers_have_four_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_share_is_a_percentage_and_an_unknown_one_a_dash() -> None:
    assert percent(0.957) == "95.7 %"
    assert percent(None) == percent(float("nan")) == DASH


@pytest.mark.parametrize(("value", "text"), [(512, "512"), (65_536, "65.5k"), (1_020_000, "1.02M"), (999_600_000, "1000M")])
def test_counts_are_short(value: int, text: str) -> None:
    assert compact(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.25, "4.2 s"), (151.2, "2 min 31 s"), (7800, "2 h 10 min"), (None, DASH)])
def test_durations_are_in_the_units_of_their_size(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_groups_are_shown_by_name_and_charts_are_referred_to() -> None:
    assert shown({"25": 31, "5": 30, "95": 32}) == "5: 30 · 25: 31 · 95: 32"
    assert shown({"train": 0.5}) == "train: 0.500"
    assert shown({"edges": [0.0], "counts": [1]}) == "see the chart"
    assert shown(True) == "yes"


def test_rounding_keeps_four_digits_and_makes_whole_numbers_whole() -> None:
    assert significant([12.34567, 0.000123456, 3.0, 0.0, -98765.4]) == [12.35, 0.0001235, 3, 0, -98770]


def test_what_is_not_finite_becomes_null() -> None:
    assert significant([float("nan"), float("inf"), 1.5]) == [None, None, 1.5]


@given(st.lists(st.floats(1e-12, 1e12)))
def test_rounded_numbers_are_short_and_close(values: list[float]) -> None:
    for value, rounded in zip(values, significant(values), strict=True):
        assert rounded == pytest.approx(value, rel=5e-4)
        assert len(json.dumps(rounded)) <= 13
