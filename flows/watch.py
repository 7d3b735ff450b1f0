"""Watches that the server plans the runs of its own schedules: once its scheduler failed, and its UI said that all was well.

The scheduler plans every active schedule's next runs ahead, at the latest a minute after a change. So what it has not
planned two minutes later it will not run either, and that is told now rather than after the night.
"""

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
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
from prefect.client.schemas.schedules import NoSchedule

from flows.dates import next_date

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
        unplanned = {found.schedule: found for found in _unplanned(client)}
        now = time.monotonic()
        self._unplanned_since = {schedule: self._unplanned_since.get(schedule, now) for schedule in unplanned}
        for schedule, since in self._unplanned_since.items():
            if now - since >= PATIENCE_S and now - self._told.get(schedule, -REPEAT_S) >= REPEAT_S:
                self._tell(self._sentence(unplanned[schedule], now - since))
                self._told[schedule] = now  # only now: what could not be told is tried again

    def _sentence(self, found: "_Unplanned", seconds: float) -> str:
        if isinstance(found.due, ValueError):
            return (
                f"NO RUN IS MADE: {found.name} has a schedule whose next time cannot be computed ({found.due}). Edit or "
                "remove that schedule."
            )
        cause = scheduler_error(self._log) if self._log is not None else None
        where = f"the server's log ({self._log})" if self._log is not None else "the log of that server"
        why = f"Its last error: {cause}. See {where}." if cause is not None else f"Look for its reason in {where}."
        return (
            f"NO RUN IS MADE: {found.name} is due at {found.due:%Y-%m-%d %H:%M %Z}, but the server's scheduler has planned "
            f"no run for {seconds / 60:.0f} min, and will start none by itself. {why}"
        )


class _Unplanned(NamedTuple):
    """An active schedule without a run for its next time."""

    name: str
    """Of its deployment."""
    schedule: UUID
    due: datetime | ValueError
    """That time, or why there is none."""


def _unplanned(client: SyncPrefectClient) -> Iterator[_Unplanned]:
    for deployment in client.read_deployments():
        for schedule in deployment.schedules if not deployment.paused else []:
            if not schedule.active or isinstance(schedule.schedule, NoSchedule):
                continue
            due = _due(schedule)
            if due is not None and not _is_provided_for(client, deployment, due):
                yield _Unplanned(deployment.name, schedule.id, due)


def _is_provided_for(client: SyncPrefectClient, deployment: DeploymentResponse, due: datetime | ValueError) -> bool:
    if isinstance(due, ValueError):
        return False
    return due - datetime.now(UTC) >= HORIZON or _planned(client, deployment, due)


def _due(schedule: DeploymentSchedule) -> datetime | ValueError | None:
    """When the schedule comes next, or why that cannot be said: one such schedule must not hide the others."""
    try:
        return next_date(schedule.schedule)
    except ValueError as error:
        return error
    except Exception as error:  # what libraries of dates may raise: OverflowError, TypeError
        return ValueError(f"{type(error).__name__}: {error}")


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
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
            entries = _ENTRY.split(file.read().decode(errors="replace"))
    except OSError:  # removed by hand, say
        return None
    errors = [entry for entry in entries if _LEVEL.match(entry) and _OF_SCHEDULER.search(entry)]
    if not errors:
        return None
    lines = [line.strip() for line in errors[-1].splitlines() if line.strip()]
    return lines[-1].rstrip(".")  # the exception, below its traceback
