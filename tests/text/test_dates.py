from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from tasks.errors import InputError
from tasks.text.dates import Window, day_of, path_day


@pytest.mark.parametrize(
    ("path", "day"),
    [
        ("/in/2026-11-20/a.jsonl", date(2026, 11, 20)),
        ("s3://b/date=2026-11-20/a.jsonl", date(2026, 11, 20)),
        ("/in/news_20261120.jsonl.zst", date(2026, 11, 20)),
        ("/in/2026/11/20/a.txt", date(2026, 11, 20)),
        ("/in/2026/11/20.txt", date(2026, 11, 20)),
        ("/2025-01-01/in/2026-11-20.txt", date(2026, 11, 20)),
        ("/in/2026-11-20/part-2026-13-45.txt", date(2026, 11, 20)),
        ("/in/20261120123000.txt", None),
        ("/in/12026-11-20.txt", None),
        ("/in/2026/11/a.txt", None),
        ("/in/2026-02-30.txt", None),
    ],
)
def test_the_last_date_of_a_path_counts_and_longer_numbers_are_none(path, day):
    assert path_day(path) == day


@pytest.mark.parametrize(
    "value",
    [
        date(2026, 11, 20),
        datetime(2026, 11, 20, 23, 59),
        datetime(2026, 11, 19, 23, tzinfo=timezone(timedelta(hours=-5))),
        datetime(2026, 11, 20, 1, tzinfo=UTC),
        "2026-11-20",
        " 2026-11-20T10:00:00Z\n",
        "2026-11-21T01:00:00+02:00",
        "20261120",
    ],
)
def test_dates_times_and_iso_text_name_a_day_in_utc(value):
    assert day_of(value, "when", "a.jsonl, line 1") == date(2026, 11, 20)


@pytest.mark.parametrize(
    ("value", "found"),
    [(None, "nothing"), ("yesterday", "'yesterday'"), (20261120, "int"), ("0001-01-01T00:00:00+14:00", "'0001-")],
)
def test_what_is_no_date_is_named(value, found):
    with pytest.raises(InputError, match=rf"^a\.jsonl, line 3: text\.date_column 'when' holds {found}.* such as 2026-11-20"):
        day_of(value, "when", "a.jsonl, line 3")


def test_a_window_of_one_day_is_its_last_day_and_one_may_reach_before_all_time():
    window = Window.ending_on(date(2026, 3, 1), 1)
    assert date(2026, 3, 1) in window
    assert date(2026, 2, 28) not in window
    assert Window.ending_on(date(2026, 3, 1), 2).first == date(2026, 2, 28)
    assert Window.ending_on(date(2026, 3, 1), 10**9).first == date.min
    assert None not in window
