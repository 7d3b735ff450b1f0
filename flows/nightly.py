"""The pipeline by the clock: what a missed night left behind is skipped rather than run late."""

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.form import NightlyForm, takes
from flows.on_prefect import conduct, in_a_sentence, stored
from flows.pipeline import Result


@flow(name="nightly", persist_result=False, validate_parameters=False)
@takes(NightlyForm)
def nightly(**chosen: Any) -> Result | State[Any]:
    """Run the pipeline on today's data, unless this run should have started long ago.

    Prefect schedules runs ahead, and a machine that was off for three nights would do all three, one after the other.
    """
    due = runtime.flow_run.scheduled_start_time

    def work() -> Result | State[Any]:
        form = NightlyForm.filled(chosen, stored())
        hours = form.skip_if_late_hours
        if is_stale(due, datetime.now(UTC), hours):
            return Completed(name="SkippedStale", message=f"Was due at {due}, more than {hours:g} h ago.")
        return conduct(form.settings())

    return in_a_sentence(work)


def is_stale(due: datetime | None, now: datetime, hours: float) -> bool:
    """Whether a run that was due at ``due`` is more than ``hours`` late."""
    return due is not None and now - due > timedelta(hours=hours)
