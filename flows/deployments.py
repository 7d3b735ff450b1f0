"""The deployments that ``saemill serve`` offers: ``pipeline``, by hand, and ``nightly``, by the clock."""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.nightly import nightly
from flows.on_prefect import pipeline
from tasks.config import PipelineConfig
from tasks.errors import InputError

DEFAULT_CRON = "17 2 * * *"
"""Not on the hour, when everybody's jobs start."""
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def serve_deployments(config: PipelineConfig, nightly_config: PipelineConfig, cron: str | None, timezone: str) -> None:
    """Offer both deployments and run what is started, one run at a time, until SIGINT or SIGTERM."""
    serve(
        pipeline_deployment(config),
        nightly_deployment(nightly_config, cron, timezone),
        limit=1,
        pause_on_shutdown=False,  # the schedule is the user's: a restart of this process must not switch it off
        print_starting_message=False,
    )


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


def nightly_deployment(config: PipelineConfig, cron: str | None, timezone: str) -> RunnerDeployment:
    """The nightly run; without ``cron``, a deployment that is there already keeps its schedules as the user left them."""
    deployment = RunnerDeployment.from_flow(
        nightly,
        "nightly",
        description="The same pipeline by the clock, on whatever the corpus holds by then. Edit the schedule at will.",
        parameters={"config": config.model_dump(mode="json")},
        schedule=Cron(cron or DEFAULT_CRON, timezone=timezone, slug="nightly"),
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    if cron is None and _exists("nightly/nightly"):
        # Only what was set is sent. An empty list would do as long as all schedules have a slug, but those that were
        # added in the UI have none, and then the server deletes every schedule (prefect 3.8.8, api/deployments.py).
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
