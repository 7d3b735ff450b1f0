"""How much a metric varies between trainings that differ in nothing but their seed.

Three ways, the first that is there: the rule's ``sigma``; SAEs that were trained again with other seeds, measured on the
same rows (``--repeat``); and what was typical on a small language model (``metrics.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from tasks.gates.config import Gate
from tasks.gates.metrics import typical_noise

Origin = Literal["given", "repeats", "typical"]


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """Standard deviation of a metric of one training, as far as the seed decides it."""

    sigma: float
    origin: Origin


def seed_noise(gate: Gate, champion: float, repeats: Sequence[float]) -> SeedNoise:
    """The noise of a gate's metric.

    A deviation of a few trainings is itself uncertain. It is widened so that ``gate.tolerance`` of it are passed as rarely
    as of a deviation that is known, by Student's distribution: at a tolerance of 3 with one repeat 79 times, with two 6.4
    times, with four 2.2 times, with nine 1.4 times.

    Args:
        gate: whose tolerance it is for.
        champion: its metric.
        repeats: the same metric of trainings like the champion's, with other seeds.
    """
    if gate.sigma is not None:
        return SeedNoise(gate.sigma, "given")
    if not repeats:
        return SeedNoise(typical_noise(gate.metric, champion), "typical")
    deviation = float(np.std([champion, *repeats], ddof=1))
    return SeedNoise(deviation * _widening(gate.tolerance, len(repeats)), "repeats")


def _widening(tolerance: float, degrees: int) -> float:
    if tolerance == 0:
        return 1.0
    return float(stats.t.isf(stats.norm.sf(tolerance), degrees)) / tolerance
