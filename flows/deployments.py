"""The one list of deployments: ``pipeline`` and ``sweep``, started by hand, and ``nightly``, started by the clock.

``saemill serve`` offers them on a laptop (``flows.serve``), and ``flows.deploy`` creates them for a pool of workers.
"""

from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.dates import next_date
from flows.defaults import CRON
from flows.nightly import nightly
from flows.on_prefect import pipeline, sweep
from tasks.errors import InputError

PIPELINE = "The whole pipeline. To start it: Run > Custom run; name a configuration and change what you like."
SWEEP = "Many SAEs in one pass. To start it: Run > Custom run; all combinations of the values in the lists are trained."
NIGHTLY = "The same pipeline by the clock, on whatever the corpus holds by then. Edit the schedule at will: settings stay."
# ENQUEUE: with CANCEL_NEW, one stuck run would cancel every later night. A busy machine may take minutes to start a run.
ONE_AT_A_TIME = ConcurrencyLimitConfig(
    limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE, grace_period_seconds=600
)


def offered(
    configuration: str, nightly_configuration: str, beside: Mapping[str, str], cron: str | None, timezone: str
) -> list[RunnerDeployment]:
    """The deployments, whose forms begin with these configurations, by name, and with the fields that stand ``beside`` them.

    They hold names and not settings, so that an edited schedule, which may store a copy of a form, copies no settings.
    Without ``cron``, a nightly that is there already keeps its schedules as the user left them.
    """
    by_hand, by_clock = {"configuration": configuration, **beside}, {"configuration": nightly_configuration, **beside}
    scheduled = _deployment(nightly, NIGHTLY, by_clock, Cron(cron or CRON, timezone=timezone))
    if cron is None and exists(scheduled):
        # Only what was set is sent; an empty list would delete the schedules (prefect 3.8.8, server/models/deployments.py).
        # A slug would let the server match ours, but then its UI shows the slug in place of the time.
        scheduled.schedules = None
        scheduled.model_fields_set.discard("schedules")
    return [_deployment(pipeline, PIPELINE, by_hand), _deployment(sweep, SWEEP, by_hand), scheduled]


def _deployment(
    flow: Flow[..., Any], description: str, parameters: dict[str, str], schedule: Schedule | None = None
) -> RunnerDeployment:
    """A deployment named as its flow is."""
    return RunnerDeployment.from_flow(
        flow,
        flow.name,
        description=description,
        parameters=dict(parameters),
        schedule=schedule,
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def exists(deployment: RunnerDeployment) -> bool:
    """Whether the Prefect server has a deployment of this name."""
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(deployment.full_name)
        except ObjectNotFound:
            return False
        return True


def check_schedule(cron: str | None, timezone: str) -> CronSchedule:
    """The schedule, or the default one; refused where Prefect could not read it, or it never comes.

    Raises:
        InputError: the cron expression or the time zone is wrong.
    """
    try:
        ZoneInfo(timezone)
        CronSchedule(cron=CRON, timezone=timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones, or a name as long as no file's
        raise InputError(f"--timezone is {timezone!r} but must be a name such as Europe/London or UTC.") from None
    try:
        schedule = CronSchedule(cron=cron or CRON, timezone=timezone)
    except ValidationError:
        raise InputError(f"--cron is {cron!r} but must be five fields, such as '{CRON}'.") from None
    try:
        next_date(schedule)
    except ValueError:
        raise InputError(f"--cron is {cron!r}, which never comes. Name a day that the calendar has.") from None
    return schedule
