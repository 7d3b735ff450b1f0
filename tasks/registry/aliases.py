"""Aliases: names that move from version to version. Each move is a record, and nothing is ever taken back."""

from typing import Literal

from pydantic import Field

from tasks.registry.records import Signed


class AliasMove(Signed):
    """An alias comes to stand for a version."""

    alias: str
    version: int = Field(ge=1)
    previous: int | None = None
    """The version that it stood for before this move."""
    below: int | None = Field(None, ge=1)
    """The number of the move to which ``~1`` and a rollback go: for a promotion the move before it, for a rollback what lay
    below the move to which it went. So each rollback goes one promotion further back, and two never go there and back.
    """
    rollback_to: int | None = None
    """The version of that move."""
    action: Literal["promote", "rollback", "register"]
    why: str = ""
    verdict: str | None = None
    """Hash of the verdict that was there."""
    forced: bool = False
    """Whether it was made against a verdict of REJECT."""
    move: str
    """Random, so that no two moves are the same bytes: of two who write at once, each can tell whether it was first."""
