"""Tags of versions: an append-only list of what was set and what was taken away."""

from pydantic import Field

from tasks.registry.records import Signed


class TagChange(Signed):
    """A version is given a tag, or loses it."""

    version: int = Field(ge=1)
    tag: str
    present: bool
    """Whether it has the tag from now on."""
    change: str
    """Random, so that no two changes are the same bytes."""
