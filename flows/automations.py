"""Three automations of Prefect's that a server gets ready: a night that failed, one that was missed, and a verdict.

Created where none of that name is, and left as they are edited. With ``notify.webhook`` those of a failed and a missed night
call it, for runs that ended without a word, and nights that no run was made of; the server signs nothing. What a night knows
of itself, it tells. Without a webhook they do nothing but stand in the UI's feed, until somebody gives them an action.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ActionTypes, CallWebhook, DoNothing
from prefect.events.schemas.automations import AutomationCore, CompoundTrigger, EventTrigger, Posture
from pydantic import SecretStr

from flows import events
from flows.dates import next_dates
from tasks.notify.config import NotifyConfig
from tasks.notify.webhook import read

BLOCK = "saemill-notify"
FAILED, MISSED, VERDICT = "saemill: failed night", "saemill: missed night", "saemill: verdict HOLD or REJECT"
GRACE = timedelta(hours=2)
"""How long after its time a night may end, beside the longest time between two."""
_NIGHTLY = {"prefect.resource.role": "deployment", "prefect.resource.name": "nightly"}
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
_ENDED_WELL = {f"prefect.flow-run.{name}" for name in ("Completed", "NothingNew")}
"""Prefect calls the event as the state is called. A run that was left out, ``SkippedStale``, is none of these."""


def offer_automations(notify: NotifyConfig, schedule: CronSchedule, grace: timedelta = GRACE) -> list[str]:
    """Create those of the three that the server does not have; their names."""
    block = None if notify.webhook is None else _block(SecretStr(read(notify.webhook.get_secret_value()).decode()))
    with get_client(sync_client=True) as client:
        lacking = [one for one in _automations(block, longest_gap(schedule) + grace) if not _exists(client, one.name)]
        for automation in lacking:
            client.create_automation(automation)
    return [automation.name for automation in lacking]


def longest_gap(schedule: CronSchedule, among: int = 14) -> timedelta:
    """The longest time between two of the schedule's next dates."""
    found = next_dates(schedule, among + 1)
    gaps = ((later - sooner).total_seconds() for sooner, later in pairwise(found))  # of dates that are pendulum's
    return timedelta(seconds=max(gaps, default=24 * 3600))


def _automations(block: UUID | None, within: timedelta) -> Iterator[AutomationCore]:
    # A run that ends by itself has told the webhook so.
    untold = ("Crashed", "TimedOut") if block is not None else ("Crashed", "TimedOut", "Failed")
    ended = {f"prefect.flow-run.{name}" for name in untold}
    yield AutomationCore(
        name=FAILED,
        description="A nightly run failed, crashed, or took too long.",
        trigger=EventTrigger(expect=ended, match=_RUNS, match_related=_NIGHTLY, posture=Posture.Reactive),
        actions=[_action(block, events.FAILED, "saemill: the run {{ flow_run.name }} ended as {{ flow_run.state.name }}")],
    )
    absent = EventTrigger(expect=_ENDED_WELL, match=_RUNS, match_related=_NIGHTLY, posture=Posture.Proactive, within=within)
    late = EventTrigger(expect={events.MISSED}, posture=Posture.Reactive)
    missed = absent if block is not None else CompoundTrigger(triggers=[absent, late], require="any", within=within)
    yield AutomationCore(
        name=MISSED,
        description=f"No nightly run has ended well for {_hours(within)}, or one was too late and left out.",
        trigger=missed,
        actions=[_action(block, events.MISSED, f"saemill: no night has ended well for {_hours(within)}")],
    )
    lost = {"saemill.verdict": ["HOLD", "REJECT"]}
    yield AutomationCore(
        name=VERDICT,
        description="Tonight's SAE was held against the champion, and is no better, or was rejected.",
        trigger=EventTrigger(expect={events.VERDICT}, match=lost, posture=Posture.Reactive),
        actions=[DoNothing()],
    )


def _action(block: UUID | None, event: str, text: str) -> ActionTypes:
    if block is None:
        return DoNothing()
    return CallWebhook(block_document_id=block, payload=json.dumps({"text": text, "event": event}))


def _block(url: SecretStr) -> UUID:
    """The block through which the server knows the webhook; it stores the URL encrypted."""
    found = Webhook(url=url, headers={"Content-Type": "application/json"}).save(BLOCK, overwrite=True)
    assert isinstance(found, UUID)  # a coroutine where an event loop runs
    return found


def _exists(client: SyncPrefectClient, name: str) -> bool:
    return bool(client.read_automations_by_name(name))


def _hours(time: timedelta) -> str:
    return f"{time / timedelta(hours=1):g} hours"
