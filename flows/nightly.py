"""The pipeline by the clock: what a missed night left behind is skipped rather than run late."""

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import events
from flows.events import Event, by_webhook
from flows.form import NightlyForm, takes
from flows.night.on_prefect import conduct_night, emitted
from flows.night.telling import telling_failures
from flows.on_prefect import conduct, in_a_sentence, stored
from flows.pipeline import Result
from tasks.errors import InputError


@flow(name="nightly", persist_result=False, validate_parameters=False)
@takes(NightlyForm)
def nightly(**chosen: Any) -> Result | State[Any]:
    """Run the pipeline on today's data, unless this run should have started long ago.

    Prefect schedules runs ahead, and a machine that was off for three nights would do all three, one after the other.
    With registry.name set, tonight's SAE is judged against the champion, and its latents are followed.
    """
    due = runtime.flow_run.scheduled_start_time

    def work() -> Result | State[Any]:
        form = NightlyForm.filled(chosen, stored())
        hours = form.skip_if_late_hours
        if is_stale(due, datetime.now(UTC), hours):
            said = f"Was due at {due}, more than {hours:g} h ago."
            _tell_missed(form, said)
            return Completed(name="SkippedStale", message=said)
        config = form.settings()
        with telling_failures(config, emitted(by_webhook(config.notify))) as tell:
            return conduct_night(config, tell) if config.registry.name is not None else conduct(config)

    return in_a_sentence(work)


def is_stale(due: datetime | None, now: datetime, hours: float) -> bool:
    """Whether a run that was due at ``due`` is more than ``hours`` late."""
    return due is not None and now - due > timedelta(hours=hours)


def _tell_missed(form: NightlyForm, said: str) -> None:
    """Tell that a night is left out; where the settings cannot be read, a run will say so."""
    with contextlib.suppress(InputError):
        config = form.settings()
        name = config.registry.name or config.name
        event = Event(events.MISSED, name, f"saemill: the night of {name} is left out. {said}", {"name": name})
        emitted(by_webhook(config.notify))(event)
