"""What a night tells of itself, by webhook and, where a server records it, as an event that automations listen to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tasks.notify.config import NotifyConfig
from tasks.notify.webhook import post

REGISTERED = "saemill.version.registered"
VERDICT = "saemill.gate.verdict"
MOVED = "saemill.alias.moved"
DRIFT = "saemill.drift.alert"
FINISHED = "saemill.night.finished"
FAILED = "saemill.night.failed"
MISSED = "saemill.night.missed"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    name: str
    """One of the above."""
    registry: str
    """Name of the registry, or of the configuration where there is none."""
    text: str
    """One line for people."""
    payload: dict[str, Any]
    """For programs: plain JSON values."""


Tell = Callable[[Event], None]


def by_webhook(notify: NotifyConfig) -> Tell:
    """Tell the webhook of the settings, if they name one."""

    def tell(event: Event) -> None:
        post(notify, event.name, event.text, {"registry": event.registry, **event.payload})

    return tell
