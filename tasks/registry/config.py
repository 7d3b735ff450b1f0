"""Under which name a run registers its SAE, and what retention keeps of that name."""

from typing import ClassVar

from pydantic import Field

from tasks.registry.names import NAME
from tasks.settings import PathText, Settings


class RegistryConfig(Settings):
    """Which SAEs belong together, and how long they stay."""

    not_in_recipe: ClassVar[frozenset[str]] = frozenset({"name", "keep_versions", "keep_champion_days", "retain", "carry"})

    name: str | None = Field(None, pattern=NAME, max_length=200)
    """Name under which a run registers its SAE as a new version, the challenger. Empty: it is not registered."""
    keep_versions: int = Field(5, ge=1, le=100_000)
    """How many of the newest versions saemill gc --registry keeps, whatever became of them."""
    keep_champion_days: float = Field(90.0, ge=0, le=36_500)
    """For how many days it keeps a version that was champion and is no longer, so that one can roll back to it."""
    retain: bool = True
    """Have each night remove what the two above no longer keep, as saemill gc --registry does."""
    carry: PathText | None = Field(None, min_length=1)
    """Parquet or CSV with a column stable_id, such as explanations: each night carries it over to its SAE."""
