"""When a schedule comes next, computed as the server computes it."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from prefect.client.schemas.schedules import SCHEDULE_TYPES
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import TypeAdapter

_WITH_DATES: TypeAdapter[CronSchedule | IntervalSchedule | RRuleSchedule] = TypeAdapter(
    CronSchedule | IntervalSchedule | RRuleSchedule
)


def next_date(schedule: SCHEDULE_TYPES) -> datetime | None:
    """When the schedule comes next; None for one that is over.

    Raises:
        ValueError: it has no date, such as a cron of 30 February.
    """
    return next(iter(next_dates(schedule, 1)), None)


def next_dates(schedule: SCHEDULE_TYPES, n: int) -> list[datetime]:
    """When the schedule comes next, up to ``n`` times.

    Raises:
        ValueError: it has no date, such as a cron of 30 February.
    """
    found = _WITH_DATES.validate_python(schedule.model_dump())
    # Not asyncio.run, which refuses a thread that has a loop.
    dates: Any = run_coro_as_sync(found.get_dates(n, start=datetime.now(UTC) + timedelta(seconds=1)))
    return cast(list[datetime], dates)
