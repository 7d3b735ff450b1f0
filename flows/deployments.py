"""The deployments that ``saemill serve`` offers: ``pipeline`` and ``sweep``, by hand, and ``nightly``, by the clock."""

import asyncio
import contextlib
import signal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.nightly import nightly
from flows.on_prefect import pipeline, sweep
from tasks.config import PipelineConfig
from tasks.errors import InputError

DEFAULT_CRON = "17 2 * * *"
"""Not on the hour, when everybody's jobs start."""
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def serve_deployments(config: PipelineConfig, nightly_config: PipelineConfig, cron: str | None, timezone: str) -> None:
    """Offer the deployments and run what is started, one run at a time, until SIGINT or SIGTERM.

    A run that is under way then is cancelled; the same settings go on from what it wrote.
    """
    # The schedule is the user's: a restart of this process must not switch it off, as it would by default.
    runner = Runner(limit=1, pause_on_shutdown=False)
    runner.add_deployment(pipeline_deployment(config))
    runner.add_deployment(sweep_deployment(config))
    runner.add_deployment(nightly_deployment(nightly_config, cron, timezone))
    asyncio.run(_run_until_signal(runner))


async def _run_until_signal(runner: Runner) -> None:
    """``Runner.start``, but stopped in order: its own handler of SIGTERM never awaits its own stop (prefect 3.8.8)."""
    polling = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # lets start() set its handler, so that ours come after
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({polling, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set() and runner.started:
        await runner.astop()
    elif stop.is_set():
        polling.cancel()
    stopped.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await polling


def pipeline_deployment(config: PipelineConfig) -> RunnerDeployment:
    """The pipeline with a form that ``config`` fills, and no schedule."""
    return RunnerDeployment.from_flow(
        pipeline,
        "pipeline",
        description="The whole pipeline. Start it with Run > Custom run and change any setting in the form.",
        parameters={"config": config.model_dump(mode="json")},
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def sweep_deployment(config: PipelineConfig) -> RunnerDeployment:
    """A sweep with the same form, and no schedule."""
    return RunnerDeployment.from_flow(
        sweep,
        "sweep",
        description="Many SAEs in one pass over the activations. Fill the lists under sweep in the form.",
        parameters={"config": config.model_dump(mode="json")},
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def nightly_deployment(config: PipelineConfig, cron: str | None, timezone: str) -> RunnerDeployment:
    """The nightly run; without ``cron``, a deployment that is there already keeps its schedules as the user left them."""
    deployment = RunnerDeployment.from_flow(
        nightly,
        "nightly",
        description="The same pipeline by the clock, on whatever the corpus holds by then. Edit the schedule at will.",
        parameters={"config": config.model_dump(mode="json")},
        schedule=Cron(cron or DEFAULT_CRON, timezone=timezone),
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    if cron is None and _exists("nightly/nightly"):
        # Only what was set is sent; an empty list would delete the schedules (prefect 3.8.8, server/models/deployments.py).
        # A slug would let the server match ours, but then its UI shows the slug in place of the time.
        deployment.schedules = None
        deployment.model_fields_set.discard("schedules")
    return deployment


def check_schedule(cron: str | None, timezone: str) -> None:
    """Refuse a schedule that Prefect could not read.

    Raises:
        InputError: the cron expression or the time zone is wrong.
    """
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise InputError(f"--timezone is {timezone!r} but must be a name such as Europe/London or UTC.") from None
    try:
        CronSchedule(cron=cron or DEFAULT_CRON, timezone=timezone)
    except ValidationError:
        raise InputError(f"--cron is {cron!r} but must be five fields, such as '{DEFAULT_CRON}'.") from None


def _exists(name: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            return False
        return True
