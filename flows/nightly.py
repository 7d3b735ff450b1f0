"""The pipeline by the clock: what a missed night left behind is skipped rather than run late."""

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.on_prefect import conduct
from flows.pipeline import Result
from tasks.config import PipelineConfig


@flow(name="nightly", persist_result=False)
def nightly(config: PipelineConfig, skip_if_late_hours: float = 6.0) -> Result | State[Any]:
    """Run the pipeline on today's data, unless this run should have started long ago.

    Prefect schedules runs ahead, and a machine that was off for three nights would do all three, one after the other.

    Args:
        config: Everything that decides what is run.
        skip_if_late_hours: A run that starts later than this after its scheduled time is skipped.
    """
    due = runtime.flow_run.scheduled_start_time
    if is_stale(due, datetime.now(UTC), skip_if_late_hours):
        return Completed(name="SkippedStale", message=f"Was due at {due}, more than {skip_if_late_hours:g} h ago.")
    return conduct(config)


def is_stale(due: datetime | None, now: datetime, hours: float) -> bool:
    """Whether a run that was due at ``due`` is more than ``hours`` late."""
    return due is not None and now - due > timedelta(hours=hours)
