"""The metrics by which two SAEs are held against each other, each with the sentence that says what it is."""

from dataclasses import dataclass
from typing import Literal, get_args

MetricName = Literal["fvu", "ce_recovered", "l0_error", "never_firing", "shared"]
Direction = Literal["lower", "higher"]
GateKind = Literal["champion", "floor"]


@dataclass(frozen=True, slots=True)
class GateMetric:
    """What is measured of an SAE on the frozen rows."""

    about: str
    better: Direction
    seed_noise: float
    """Standard deviation between trainings that differ in their seed, where nobody has measured it; see ``relative``."""
    relative: bool = False
    """The noise is a share of what is not explained (of ``fvu``, and of 1 - ``ce_recovered``), else as it is."""


METRICS: dict[MetricName, GateMetric] = {
    "fvu": GateMetric(
        "Fraction of variance unexplained, as saemill score defines it; 0 is perfect.", "lower", 0.015, relative=True
    ),
    "ce_recovered": GateMetric(
        "Share of the model's loss that is recovered against the mean of the activations; only with the tokens at hand.",
        "higher",
        0.02,
        relative=True,
    ),
    "l0_error": GateMetric("|L0 / target - 1|, the target being k, or the L0 of a champion that keeps no k.", "lower", 0.02),
    "never_firing": GateMetric("Share of latents that are above 0 on none of the rows.", "lower", 0.005),
    "shared": GateMetric(
        "Share of the champion's firing latents whose decoder row and one of the challenger's are each other's nearest, at "
        "a cosine of .7 or more; only of a challenger that began from the champion (train.init_from).",
        "higher",
        0.0,
    ),
}
assert METRICS.keys() == {*get_args(MetricName)}


def typical_noise(name: MetricName, champion: float) -> float:
    """The standard deviation between seeds that is taken where none was measured, for a champion of this value."""
    metric = METRICS[name]
    if not metric.relative:
        return metric.seed_noise
    return metric.seed_noise * (champion if metric.better == "lower" else 1 - champion)
