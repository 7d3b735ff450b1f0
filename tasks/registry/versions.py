"""A version: what is known of one SAE from the day on which it was registered."""

from pydantic import BaseModel, ConfigDict, Field

from tasks.registry.records import Signed


class Parentage(BaseModel):
    """What an SAE was made of; each by the hash in its address, or None where nobody knows."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    activations: str | None = None
    tokens: str | None = None
    """The snapshot of the text."""
    model: str | None = None
    revision: str | None = None
    """Of the model on the hub."""
    champion: int | None = None
    """The version that its training started from."""


class SAEVersion(Signed):
    """One SAE under a name."""

    version: int = Field(ge=1)
    sae: str = Field(min_length=1)
    """Where it lies: relative to the root of the storage, so that this can be moved, or a URI of elsewhere."""
    content: str
    """Hash of its files: the same SAE is the same version, wherever it is registered from."""
    config: str
    """Hash of the settings that it was trained with."""
    parents: Parentage = Parentage()
    metrics: dict[str, float] = Field(default_factory=dict)
    """Those of its training and, where it was scored, those of its scores."""
    tags: tuple[str, ...] = ()
    """Given when it was registered; later ones are records of their own."""
