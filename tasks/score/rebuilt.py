"""How well rows are rebuilt: all of them, those of usual norm, and each hook's features where there are several hooks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from tasks.score.roles import Roles
from tasks.score.stats import HIGH_NORM_MULTIPLE, ReconstructionSums


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Sums over some rows; those of two sets of rows add to those of both."""

    every: ReconstructionSums
    """Of all rows, in units in which all hooks weigh alike."""
    usual: ReconstructionSums
    """Of the rows whose norm is at most twice the recorded median, at every hook that is rebuilt."""
    by_hook: tuple[ReconstructionSums, ...]
    """Of each hook's features alone, unscaled; none where there is one hook."""

    def __add__(self, other: "Rebuilt") -> "Rebuilt":
        by_hook = tuple(a + b for a, b in zip(self.by_hook, other.by_hook, strict=True))
        return Rebuilt(self.every + other.every, self.usual + other.usual, by_hook)

    @staticmethod
    def of(
        target: Float32[np.ndarray, "n d_out"],
        rebuilt: Float32[np.ndarray, "n d_out"],
        median_norms: Sequence[float],
        roles: Roles,
    ) -> "Rebuilt":
        """The sums of rows of the target and of what is rebuilt of them."""
        x, x_hat = target.astype(np.float64), rebuilt.astype(np.float64)
        usual = np.ones(len(x), bool)
        for part, median in zip(roles.parts, median_norms, strict=True):
            usual &= np.linalg.norm(x[:, part], axis=1) <= HIGH_NORM_MULTIPLE * median
        several = len(roles.parts) > 1
        by_hook = tuple(ReconstructionSums.of(x[:, part], x_hat[:, part]) for part in roles.parts) if several else ()
        if roles.scale is not None:
            x, x_hat = x * roles.scale, x_hat * roles.scale
        return Rebuilt(ReconstructionSums.of(x, x_hat), ReconstructionSums.of(x[usual], x_hat[usual]), by_hook)
