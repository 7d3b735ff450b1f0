"""What the report shows."""

from pydantic import Field

from tasks.settings import Settings


class ReportConfig(Settings):
    """The published site."""

    title: str | None = None
    """Heading of the report. Empty: made from the model and the hook."""
    max_latents: int | None = Field(None, ge=1, lt=2**31)
    """Latents that get a panel, those that fire most first. Empty: all."""
