from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.counts import count


@pytest.mark.parametrize(
    "text, value",
    [
        *[
            ("1M", 10**6),
            ("2k", 2000),
            ("2K", 2000),
            ("1.5M", 1_500_000),
            ("1B", 10**9),
            ("1e6", 10**6),
            ("700_000", 700_000),
        ],
        ("1234567890123456789012345678901", 1234567890123456789012345678901),
        ("1234567890123456789012345678.9k", 1234567890123456789012345678900),
        *[("2.5e3", 2500), ("0.5k", 500), ("12", 12), ("-1", -1), (" 7 ", 7), ("1.0", 1)],
    ],
)
def test_a_count_is_exact(text: str, value: int) -> None:
    assert count(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "1.5",
        "1.2345k",
        "1e-3",
        "0.12345678901234567890123456789012345e34",
        "many",
        "",
        "1_",
        "_1",
        "1__0",
        "1 M",
        "M",
        "1MM",
        "1e3k",
        "1m",
        "١٢",
        "0x10",
        "1e9999",
        "1" * 100,
    ],
)
def test_what_is_no_whole_number_is_none(text: str) -> None:
    assert count(text) is None


@given(st.integers(0, 10**9), st.integers(0, 6), st.sampled_from([("k", 3), ("M", 6), ("B", 9), ("", 0)]))
def test_digits_after_the_point_count_where_the_unit_makes_them_whole(
    digits: int, places: int, unit: tuple[str, int]
) -> None:
    letter, power = unit
    text = f"{Decimal(digits).scaleb(-places):f}{letter}"
    whole = digits * 10**power % 10**places == 0
    assert count(text) == (digits * 10**power // 10**places if whole else None)
