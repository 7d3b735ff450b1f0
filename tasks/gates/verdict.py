"""What the gates say of a challenger: PROMOTE, HOLD or REJECT, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Literal

import numpy as np

from tasks.gates.config import Gate
from tasks.gates.metrics import METRICS, Direction, GateKind, MetricName
from tasks.gates.noise import Origin, seed_noise
from tasks.gates.sums import Estimate

Verdict = Literal["PROMOTE", "HOLD", "REJECT"]
Outcome = Literal["win", "tie", "loss", "not measured"]
Estimates = Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class GateResult:
    """What came of one gate."""

    metric: MetricName
    kind: GateKind
    direction: Direction
    champion: float | None
    challenger: float | None
    sigma: float | None
    """Standard deviation of the difference between the two; of a floor, None."""
    sigma_from: Origin | None
    """Where the part of it that seeds make is from."""
    limit: float | None
    """The worst value of the challenger that is no loss."""
    outcome: Outcome


def judged(
    rules: Sequence[Gate], champion: Estimates, challenger: Estimates, repeats: Sequence[Estimates] = ()
) -> list[GateResult]:
    """What comes of each gate.

    Two trainings differ by chance: each by its seed, and both by the rows that they happen to be measured on. The first is
    twice the variance between seeds, as there are two of them; the second is that of the difference over draws of blocks.
    Of kind champion, a challenger that is more than ``tolerance`` such deviations (and the margin) worse has lost, one that
    is as much better has won, and all between is a tie. A floor can be passed or missed, but not won.

    Args:
        rules: the gates.
        champion: its metrics on the frozen rows.
        challenger: the same on the same rows.
        repeats: the same of trainings like the champion's with other seeds.
    """
    return [_judged(gate, champion, challenger, repeats) for gate in rules]


def verdict(results: Sequence[GateResult]) -> tuple[Verdict, str]:
    """REJECT where a gate is lost, HOLD where none is won, else PROMOTE; and the reason in a sentence."""
    lost = [result.metric for result in results if result.outcome == "loss"]
    won = [result.metric for result in results if result.outcome == "win"]
    if lost:
        return "REJECT", f"It is worse by {' and '.join(lost)} than chance explains, or than is allowed."
    if not won:
        return "HOLD", "Nothing to gain: the champion is as good on these rows."
    return "PROMOTE", f"It is better by {' and '.join(won)} than chance explains, and no worse by any other gate."


def _judged(gate: Gate, champion: Estimates, challenger: Estimates, repeats: Sequence[Estimates]) -> GateResult:
    name, direction = gate.metric, METRICS[gate.metric].better
    ours, theirs = challenger.get(name), champion.get(name)
    if ours is None or (theirs is None and gate.kind == "champion"):
        return GateResult(name, gate.kind, direction, None, None, None, None, None, "not measured")
    before = None if theirs is None else theirs.value
    if gate.kind == "floor":
        passed = gate.sign * ours.value <= gate.sign * gate.tolerance
        outcome: Outcome = "tie" if passed else "loss"
        return GateResult(name, gate.kind, direction, before, ours.value, None, None, gate.tolerance, outcome)
    assert theirs is not None
    seeds = seed_noise(gate, theirs.value, [found[name].value for found in repeats if name in found])
    sigma = sqrt(2 * seeds.sigma**2 + float(np.var(ours.draws - theirs.draws, ddof=1)))
    if not (isfinite(ours.value) and isfinite(theirs.value) and isfinite(sigma)):  # such as shares of nothing
        return GateResult(name, gate.kind, direction, None, None, None, None, None, "not measured")
    allowed, worse = gate.margin + gate.tolerance * sigma, gate.sign * (ours.value - theirs.value)
    outcome = "loss" if worse > allowed else "win" if -worse > allowed else "tie"
    limit = theirs.value + gate.sign * allowed
    return GateResult(name, gate.kind, direction, theirs.value, ours.value, sigma, seeds.origin, limit, outcome)
