"""Where the rows of a training are read, if not simply in its activations."""

from dataclasses import dataclass

from tasks.activations.windows import WindowUris


@dataclass(frozen=True, slots=True)
class RowSource:
    """Rows of a whole harvest, or of its windows one after another."""

    activations: str
    """The directory whose rows are read where there are no windows."""
    windows: WindowUris | None = None
    is_rolling: bool = False
    """Whether windows come while training goes on, and go once a checkpoint lies beyond them."""
