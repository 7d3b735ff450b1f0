"""An event posted to a webhook: signed, tried three times, and never a reason for a run to fail."""

import hashlib
import hmac
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tasks.notify.config import NotifyConfig
from tasks.storage.artifacts import to_json

logger = logging.getLogger(__name__)

SIGNATURE = "X-Saemill-Signature"
"""``sha256=`` and the hexadecimal HMAC-SHA256 of the body's bytes (https://www.rfc-editor.org/rfc/rfc2104)."""
DELIVERY = "X-Saemill-Delivery"
"""The same at each try, and in the body, so that an event that came twice is known, and one from long ago too."""
WAITS_S: Sequence[float] = (1.0, 4.0)
"""Before the second try and before the third."""
TIMEOUT_S = 10.0


def post(notify: NotifyConfig, event: str, text: str, payload: Mapping[str, Any]) -> bool:
    """Tell the webhook, if there is one; whether it took it. What goes wrong is a warning.

    Args:
        notify: where to, and the key.
        event: name, such as ``saemill.gate.verdict``.
        text: one line for people.
        payload: what programs read; plain JSON values.
    """
    if notify.webhook is None:
        return False
    delivery = uuid.uuid4().hex
    when = datetime.now(UTC).isoformat(timespec="seconds")
    body = to_json({"text": text, "event": event, "delivery": delivery, "when": when, **payload})
    headers = {"Content-Type": "application/json", DELIVERY: delivery}
    try:
        url = read(notify.webhook.get_secret_value()).decode()
        if notify.secret is not None:
            headers[SIGNATURE] = signature(read(notify.secret.get_secret_value()), body)
        host = urlsplit(url).hostname
    except (OSError, RuntimeError, ValueError) as error:
        logger.warning("notify.webhook or notify.secret cannot be read, so that nobody was told of %s: %s", event, error)
        return False
    reason = _posted(url, body, headers)
    if reason is not None:
        logger.warning("the webhook at %s was not told of %s: %s", host, event, reason)
    return reason is None


def signature(key: bytes, body: bytes) -> str:
    """What ``SIGNATURE`` holds."""
    return f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"


def read(secret: str) -> bytes:
    """What a setting is, or where it says that it lies: ``file:PATH`` or ``env:NAME``.

    Raises:
        OSError: the file or the variable that it names is not there.
        RuntimeError: the path begins with a home folder that is nobody's.
    """
    kind, _, place = secret.partition(":")
    if kind == "file":
        return Path(place).expanduser().read_bytes().strip()
    if kind == "env":
        if place not in os.environ:
            raise OSError(f"the environment has no {place}")
        return os.environ[place].encode()
    return secret.encode()


def _posted(url: str, body: bytes, headers: Mapping[str, str]) -> str | None:
    """Why it was not taken; None if it was. Redirects are not followed: they would lead to where nobody sent it."""
    reason = ""
    for wait_s in (0.0, *WAITS_S):
        time.sleep(wait_s)
        try:
            answer = httpx.post(url, content=body, headers=dict(headers), timeout=TIMEOUT_S)
        except Exception as error:  # also what a wrong proxy or certificates' file raise: no run fails because of this
            reason = type(error).__name__  # its words may hold the URL
            continue
        if answer.is_success:
            return None
        reason = f"it answered {answer.status_code}"
        if answer.status_code < 500 and answer.status_code not in (408, 429):
            break
    return reason
