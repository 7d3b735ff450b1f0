"""Watches that the server plans the runs of its own schedules: once its scheduler failed, and its UI said that all was well.

The scheduler plans every active schedule's next runs ahead, at the latest a minute after a change. So what it has not
planned two minutes later it will not run either, and that is told now rather than after the night.
"""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import TypeAdapter

EVERY_S = 30.0
PATIENCE_S = 120.0
"""How long a next run may be unplanned."""
REPEAT_S = 3600.0
HORIZON = timedelta(days=90)
"""What comes later is not watched yet: the scheduler plans 100 days ahead at most."""
LOG_TAIL = 2**20

_ENTRY = re.compile(r"^(?=\d\d:\d\d:\d\d\.\d+ \| )", re.MULTILINE)
_LEVEL = re.compile(r"\S+ \| (ERROR|CRITICAL) ")
_OF_SCHEDULER = re.compile(r"services[./]scheduler|schedule_(recent_)?deployments")
_logger = logging.getLogger(__name__)
_WITH_DATES: TypeAdapter[CronSchedule | IntervalSchedule | RRuleSchedule] = TypeAdapter(
    CronSchedule | IntervalSchedule | RRuleSchedule
)


@contextlib.contextmanager
def watching_schedules(tell: Callable[[str], None], log: Path | None) -> Iterator[None]:
    """Until the block ends, ``tell`` of schedules whose next run is not planned, with the cause from the server's log."""
    stop = threading.Event()
    watch = Watch(tell, log)

    def look() -> None:
        while not stop.wait(EVERY_S):
            try:
                with get_client(sync_client=True) as client:
                    watch.look(client)
            except Exception as error:  # the server is busy or away, which is not what is watched here
                _logger.debug("schedules could not be read: %s", error)

    threading.Thread(target=look, name="schedules", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


class Watch:
    """What has been seen of the schedules so far."""

    def __init__(self, tell: Callable[[str], None], log: Path | None) -> None:
        self._tell = tell
        self._log = log
        self._unplanned_since: dict[UUID, float] = {}
        """Schedule by schedule, in monotonic seconds."""
        self._told: dict[UUID, float] = {}

    def look(self, client: SyncPrefectClient) -> None:
        """Look once; tell what has been unplanned for too long and was not told lately."""
        unplanned = {schedule.id: (name, due) for name, schedule, due in _unplanned(client)}
        now = time.monotonic()
        self._unplanned_since = {schedule: self._unplanned_since.get(schedule, now) for schedule in unplanned}
        for schedule, since in self._unplanned_since.items():
            if now - since >= PATIENCE_S and now - self._told.get(schedule, -REPEAT_S) >= REPEAT_S:
                self._told[schedule] = now
                self._tell(self._sentence(*unplanned[schedule], now - since))

    def _sentence(self, name: str, due: datetime, seconds: float) -> str:
        cause = scheduler_error(self._log) if self._log is not None else None
        where = f"the server's log ({self._log})" if self._log is not None else "the log of that server"
        why = f"Its last error: {cause}. See {where}." if cause is not None else f"Look for its reason in {where}."
        return (
            f"NO RUN IS MADE: {name} is due at {due:%Y-%m-%d %H:%M %Z}, but the server's scheduler has planned no run for "
            f"{seconds / 60:.0f} min, and will start none by itself. {why}"
        )


def _unplanned(client: SyncPrefectClient) -> Iterator[tuple[str, DeploymentSchedule, datetime]]:
    """Active schedules that have a next time, and no run for it."""
    for deployment in client.read_deployments():
        for schedule in deployment.schedules if not deployment.paused else []:
            due = _next(schedule) if schedule.active else None
            if due is not None and due - datetime.now(UTC) < HORIZON and not _planned(client, deployment, due):
                yield deployment.name, schedule, due


def _next(schedule: DeploymentSchedule) -> datetime | None:
    """When the schedule comes next; None for one that is over."""
    found = _WITH_DATES.validate_python(schedule.schedule.model_dump())
    # Not asyncio.run, which refuses a thread that has a loop.
    dates: Any = run_coro_as_sync(found.get_dates(1, start=datetime.now(UTC) + timedelta(seconds=1)))
    return cast(datetime, dates[0]) if dates else None


def _planned(client: SyncPrefectClient, deployment: DeploymentResponse, due: datetime) -> bool:
    second = timedelta(seconds=1)
    about = FlowRunFilterExpectedStartTime(after_=due - second, before_=due + second)
    return bool(
        client.read_flow_runs(
            flow_run_filter=FlowRunFilter(expected_start_time=about),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            limit=1,
        )
    )


def scheduler_error(log: Path) -> str | None:
    """The last error of the scheduler that the server's log tells, as one line; None where it tells none."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        entries = _ENTRY.split(file.read().decode(errors="replace"))
    errors = [entry for entry in entries if _LEVEL.match(entry) and _OF_SCHEDULER.search(entry)]
    if not errors:
        return None
    lines = [line.strip() for line in errors[-1].splitlines() if line.strip()]
    return lines[-1].rstrip(".")  # the exception, below its traceback
