"""By what a challenger is held against the champion, and how much worse it may be."""

from typing import Self

from pydantic import Field, model_validator

from tasks.gates.metrics import METRICS, Direction, GateKind, MetricName
from tasks.settings import MOST, PathText, Settings


class Gate(Settings):
    """What has to hold of one metric."""

    metric: MetricName
    """What is measured, of both SAEs on the same held-out rows."""
    kind: GateKind = "champion"
    """champion: no worse than the champion. floor: no worse than ``tolerance``, whatever the champion is."""
    direction: Direction | None = None
    """Whether lower or higher is better. Empty: as the metric has it."""
    tolerance: float = Field(3.0, ge=0, le=1e6)
    """Of kind champion in standard deviations of the difference between two trainings; of kind floor a value."""
    margin: float = Field(0.0, ge=0, le=1e6)
    """Of kind champion, how much worse it may be beside that, in units of the metric."""
    sigma: float | None = Field(None, ge=0, le=1e6)
    """Standard deviation of the metric between trainings that differ in their seed. Empty: from --repeat, else typical."""

    @model_validator(mode="after")
    def _check_direction(self) -> Self:
        better = METRICS[self.metric].better
        if self.direction not in (None, better):
            raise ValueError(f"gates.rules: of {self.metric}, {better} is better, but its direction is {self.direction}.")
        return self

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that less is better."""
        return 1 if METRICS[self.metric].better == "lower" else -1


DEFAULT_RULES = (
    Gate(metric="fvu"),
    Gate(metric="ce_recovered"),
    # Twenty-six seeds of one BatchTopK SAE were off by .085 on average (deviation .016), so 5% of k would reject most. The
    # floor keeps limits that follow the champion from wandering off night by night.
    Gate(metric="l0_error", margin=0.05),
    Gate(metric="l0_error", kind="floor", tolerance=0.25),
    Gate(metric="never_firing", margin=0.02),
    Gate(metric="shared", kind="floor", tolerance=0.6),
)


class GatesConfig(Settings):
    """What a challenger has to pass before it may take the champion's place."""

    rules: tuple[Gate, ...] = Field(DEFAULT_RULES, min_length=1, max_length=100)
    """What has to hold, each {metric, kind, direction, tolerance, margin, sigma}. A metric that cannot be measured, such as
    ce_recovered without the model, is passed over and told."""
    rows: int = Field(65_536, ge=1, le=MOST)
    """Held-out rows that both SAEs are measured on: the first ones, the same each time."""
    splice_tokens: int = Field(8_192, ge=1, le=MOST)
    """Held-out tokens on which each SAE is spliced into the model for ce_recovered, where the tokens are given."""
    activations: PathText | None = Field(None, min_length=1)
    """URI of activations on whose held-out rows each night's SAE is measured. Empty: that night's own."""
    auto_promote: bool = False
    """Have the nightly run promote a challenger whose verdict is PROMOTE. Off: somebody does, by saemill promote."""
