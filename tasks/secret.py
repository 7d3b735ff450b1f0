"""Secrets in addresses: ``scheme://user:password@host`` and ``?password=...`` are found, refused in settings, and masked."""

import re
from collections.abc import Iterator
from typing import Any

# What stands between scheme:// and the last @ before a space: AWS secrets hold a /. host:port/x@y is none. A path of an
# address has one / after the scheme.
_LOGIN = re.compile(r"([A-Za-z][\w+.-]+:/{1,3})(?:[^/@\s'\"?#]*|[^/@\s'\":?#]*:(?!\d+(?:/|$))[^\s'\"?#]*)@")
_WORD = r"(?:[\w.-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|api_?key|access_?key|signature|credentials?)[\w.-]*|sig)"
_QUERY = re.compile(rf"(?<=[?&;])({_WORD})=[^&;#\s'\"]+", re.IGNORECASE)


def holds_secret(text: str) -> bool:
    """Whether an address in the text carries a login, or a secret among its parameters."""
    return ":/" in text and (_LOGIN.search(text) is not None or _QUERY.search(text) is not None)


def masked(text: str) -> str:
    """The text with ``***`` in place of secrets."""
    return _QUERY.sub(r"\1=***", _LOGIN.sub(r"\1***@", text)) if ":/" in text else text


def refuse_secrets(settings: Any) -> None:
    """Refuse settings that hold a secret: they are stored, published and shown.

    Raises:
        ValueError: one does; the sentence names it.
    """
    for where, text in _texts(settings, ""):
        if holds_secret(text):
            raise ValueError(
                f"{where or 'A setting'} is {masked(text)!r} with a secret where *** stands, but settings are stored and "
                f"shown. Leave it out, and put it into the environment: {_advice(where, text)}."
            )


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    todo = [(where, value)]
    while todo:  # settings from outside may be nested deeper than Python's stack
        at, found = todo.pop()
        if isinstance(found, str):
            yield at, found
        elif isinstance(found, dict):
            todo += [(f"{at}.{name}" if at else str(name), part) for name, part in found.items()]
            todo += [(at, name) for name in found if isinstance(name, str)]
        elif isinstance(found, (list, tuple)):
            todo += [(at, part) for part in found]


def _advice(where: str, text: str) -> str:
    if where == "train.mlflow" and text.startswith("http"):
        return "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    if text.startswith("s3"):
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if where == "train.mlflow":
        return "MLFLOW_TRACKING_URI of an MLflow server before that database, or the database's own, such as PGPASSWORD"
    return "for the hub HF_TOKEN"
