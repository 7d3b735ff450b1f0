"""The deployments that ``saemill serve`` offers: ``pipeline`` and ``sweep``, by hand, and ``nightly``, by the clock."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.dates import next_date
from flows.nightly import nightly
from flows.on_prefect import pipeline, sweep
from tasks.errors import InputError

DEFAULT_CRON = "17 2 * * *"
"""Not on the hour, when everybody's jobs start."""
PIPELINE = "The whole pipeline. To start it: Run > Custom run; name a configuration and change what you like."
SWEEP = "Many SAEs in one pass. To start it: Run > Custom run; all combinations of the values in the lists are trained."
NIGHTLY = "The same pipeline by the clock, on whatever the corpus holds by then. Edit the schedule at will: settings stay."
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)

POLL_S = 0.5


def serve_deployments(deployments: Iterable[RunnerDeployment], server_ended: Callable[[], bool]) -> None:
    """Offer the deployments and run what is started, one run at a time, until SIGINT or SIGTERM, or the server's end.

    A run that is under way then is cancelled; the same settings go on from what it wrote.
    """
    # The schedule is the user's: a restart of this process must not switch it off, as it would by default.
    runner = Runner(limit=1, pause_on_shutdown=False)
    for deployment in deployments:
        runner.add_deployment(deployment)
    asyncio.run(_run_until_signal(runner, server_ended))


async def _run_until_signal(runner: Runner, server_ended: Callable[[], bool]) -> None:
    """``Runner.start``, but stopped in order: its own handler of SIGTERM never awaits its own stop (prefect 3.8.8)."""
    polling = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # lets start() set its handler, so that ours come after
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped, alone = asyncio.create_task(stop.wait()), asyncio.create_task(_until(server_ended))
    await asyncio.wait({polling, stopped, alone}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set() and runner.started:
        await runner.astop()
    elif stop.is_set() or alone.done():  # without a server, nobody can be told that runs are cancelled
        polling.cancel()
    stopped.cancel()
    alone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await polling


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(POLL_S)


def offered(
    configuration: str, nightly_configuration: str, storage: str | None, cron: str | None, timezone: str
) -> list[RunnerDeployment]:
    """The deployments, whose forms begin with these configurations, by name, and this storage.

    They hold names and not settings, so that an edited schedule, which may store a copy of a form, copies no settings.
    Without ``cron``, a nightly that is there already keeps its schedules as the user left them.
    """
    by_hand, by_clock = {"configuration": configuration}, {"configuration": nightly_configuration}
    if storage is not None:
        by_hand["storage"] = by_clock["storage"] = storage
    scheduled = _deployment(nightly, NIGHTLY, by_clock, Cron(cron or DEFAULT_CRON, timezone=timezone))
    if cron is None and _exists("nightly/nightly"):
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


def check_schedule(cron: str | None, timezone: str) -> None:
    """Refuse a schedule that Prefect could not read, or that never comes.

    Raises:
        InputError: the cron expression or the time zone is wrong.
    """
    try:
        ZoneInfo(timezone)
        CronSchedule(cron=DEFAULT_CRON, timezone=timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones, or a name as long as no file's
        raise InputError(f"--timezone is {timezone!r} but must be a name such as Europe/London or UTC.") from None
    try:
        schedule = CronSchedule(cron=cron or DEFAULT_CRON, timezone=timezone)
    except ValidationError:
        raise InputError(f"--cron is {cron!r} but must be five fields, such as '{DEFAULT_CRON}'.") from None
    try:
        next_date(schedule)
    except ValueError:
        raise InputError(f"--cron is {cron!r}, which never comes. Name a day that the calendar has.") from None


def _exists(name: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            return False
        return True
