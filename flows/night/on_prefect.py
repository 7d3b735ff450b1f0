"""A night inside a Prefect flow run: a task for each step, one page as artifact, and events that automations listen to."""

from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from flows.config import PipelineConfig
from flows.events import Event, Tell
from flows.labels import run_name, run_tags
from flows.night.run import Step, run_night
from flows.night.telling import headline, markdown
from flows.night.tonight import Night
from flows.on_prefect import AGAIN, TIMEOUT_S, called, in_run, labelled, listener, publish, unwrapped
from flows.pipeline import Result
from flows.reports import link_to

RESOURCE = "saemill.registry"
"""With a point and the registry's name, the resource of every event."""


def conduct_night(config: PipelineConfig, tell: Tell) -> Result | State[Any]:
    """Do the night inside the present flow run, and publish what came of it as one page; ``tell`` hears of it."""
    labelled(run_name(config), run_tags(config))
    with in_run():
        night = run_night(config, called, _do, tell)
    _publish(night)
    if not night.is_new:
        return Completed(name="NothingNew", message=headline(night), data=night.result)
    return night.result


def emitted(tell: Tell) -> Tell:
    """Tell the server too; its automations listen to the event's name."""

    def both(event: Event) -> None:
        resource = {"prefect.resource.id": f"{RESOURCE}.{event.registry}", "prefect.resource.name": event.registry}
        resource |= {"saemill.verdict": verdict} if (verdict := event.payload.get("verdict")) else {}  # automations match it
        emit_event(event=event.name, resource=resource, payload={"text": event.text, **event.payload})
        tell(event)

    return both


@task(**AGAIN)
def run_night_step(name: str, step: Step) -> Any:
    """Do one step of a night, which does nothing where it is done."""
    with unwrapped():
        return step(listener(name, has_bar=False))


def _do(name: str, step: Step) -> Any:
    return run_night_step.with_options(name=name, task_run_name=name, timeout_seconds=TIMEOUT_S)(name, step)


def _publish(night: Night) -> None:
    create_markdown_artifact(markdown=markdown(night), key="night", description=headline(night))
    link = link_to(night.history)
    create_link_artifact(link=link, link_text="All nights", key="nights", description=night.history)
    get_run_logger().info("%s; all nights are at %s", headline(night), link)
    publish(night.result)
