"""Secrets in addresses: ``scheme://user:password@host`` and ``?password=...`` are found, refused in settings, and masked."""

import re
from collections.abc import Iterator
from typing import Any

# One word at a time, as no address holds a space. No pattern looks at a letter more than a hundred times: text may be long.
_WORDS = re.compile(r"\S+")
_SCHEME = r"([A-Za-z][\w+.-]{1,39}:/{1,3})"  # a path of an address has one / after the scheme
_USER = re.compile(_SCHEME + r"(?!\[[0-9A-Fa-f:.]+\][:/?#])[^/\s\"?#:]*:")
_TOKEN = re.compile(_SCHEME + r"[^/\s'\"?#]*@")
# A port where a user would have a password. Secrets of S3 may be digits and a /, but no bucket has a port.
_PORT = re.compile(r"\d+[/?#]")
_WITH_PORTS = ("http:", "https:", "ws:", "wss:", "grpc:", "hdfs:", "ray:")
_PORT_OF_DATABASE = re.compile(r"\d+/[^/?#]*\?\w+=")
_PARAMETER = re.compile(r"(?<=[?&;])([\w.-]+)=[^&;\s]+?(?=['\"]?[.,:)\]}]{0,3}(?:[&;\s]|$))")
_SECRET_NAME = re.compile(
    r"pass(?:word|wd|phrase)?|pwd|secret|token|api_?key|access_?key|signature|credentials?|^sig$", re.IGNORECASE
)


def holds_secret(text: str) -> bool:
    """Whether an address in the text carries a login, or a secret among its parameters."""
    return masked(text) != text


def masked(text: str) -> str:
    """The text with ``***`` in place of secrets."""
    if ":/" not in text:
        return text
    return _PARAMETER.sub(_masked_parameter, _WORDS.sub(_masked_login, text))


def _masked_login(found: re.Match[str]) -> str:
    """A word without its logins: a password ends at the last ``@``, as it may hold ``/ @ # ?`` and quotes."""
    word = found[0]
    head, at, rest = word.rpartition("@")
    for user in _USER.finditer(head) if at else ():
        if not _before_a_port(user):
            return f"{head[: user.end(1)]}***@{rest}"
    return _TOKEN.sub(r"\1***@", word)


def _before_a_port(user: re.Match[str]) -> bool:
    port = _PORT if user[1].lower().startswith(_WITH_PORTS) else _PORT_OF_DATABASE
    return port.match(user.string, user.end()) is not None


def _masked_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}=***" if _SECRET_NAME.search(found[1]) else found[0]


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
