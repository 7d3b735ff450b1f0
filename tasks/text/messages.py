"""The messages of a conversation, checked."""

from collections.abc import Callable
from typing import Any

from tasks.errors import InputError

Message = dict[str, Any]
Render = Callable[[list[Message], str], str]
"""Messages, and where they stand, to text."""


def messages_of(value: Any, column: str, where: str) -> list[Message]:
    """The messages that a column holds; none where it is null.

    Raises:
        InputError: it holds something else than a list of objects with text in role and content.
    """
    wanted = f"{where}: text.chat_column {column!r} must hold a list of messages with text in role and content, but "
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f"{wanted}holds {type(value).__name__}.")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise InputError(f"{wanted}message {number} is {type(message).__name__}.")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise InputError(f"{wanted}{key} of message {number} is {_kind(message.get(key))}.")
    return value


def contents(messages: list[Message], where: str) -> str:
    """What was said, for where there is no tokenizer at hand; ``where`` is there to be a ``Render``."""
    return "\n".join(message["content"] for message in messages)


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
