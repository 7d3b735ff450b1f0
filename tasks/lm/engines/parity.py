"""How far an engine's activations are from those of transformers, token by token."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from typing_extensions import override

from tasks.lm.engines.errors import EngineError

TOKENS = 2048
"""How many are compared, at least, where the corpus has so many."""
LEAST_COSINE = 0.999
"""Of two computations in bfloat16: noise of 4.5% of a row's norm comes to it."""
NORM_RATIOS = (0.99, 1.01)


@dataclass(frozen=True, slots=True)
class Parity:
    """The token at which an engine and transformers agree least, at one hook."""

    tokens: int
    """Compared."""
    cosine: float
    """The smallest."""
    norm_ratios: tuple[float, float]
    """The smallest and the largest of the engine's norm to that of transformers."""

    @property
    def holds(self) -> bool:
        """Whether these are the same activations but for rounding; never where one is NaN."""
        low, high = NORM_RATIOS
        return self.cosine >= LEAST_COSINE and low <= self.norm_ratios[0] and self.norm_ratios[1] <= high

    @override
    def __str__(self) -> str:
        low, high = self.norm_ratios
        return (
            f"cosine at least {self.cosine:.5f} and norms {low:.4f} to {high:.4f} times as large, of {self.tokens:,} tokens"
        )


def compared(found: Tensor, expected: Tensor) -> Parity:
    """Parity of activations [..., d_in] of the same tokens in the same order: the engine's, and those of transformers."""
    ours, theirs = (rows.flatten(0, -2).cpu().double() for rows in (found, expected))
    ratios = torch.linalg.vector_norm(ours, dim=1) / torch.linalg.vector_norm(theirs, dim=1)
    cosine = float(cosine_similarity(ours, theirs, dim=1).min())
    return Parity(len(ours), cosine, (float(ratios.min()), float(ratios.max())))


def require_parity(engine: str, found: Mapping[str, Parity]) -> None:
    """Refuse an engine that gives other activations.

    Args:
        engine: its name and version.
        found: by hook.

    Raises:
        EngineError: at the first hook that it differs at, which is named.
    """
    for hook, parity in found.items():
        if not parity.holds:
            low, high = NORM_RATIOS
            raise EngineError(
                f"{engine} gives other activations than transformers at {hook}: {parity}, where {LEAST_COSINE} and {low} to "
                f"{high} are asked for. Set model.engine to transformers."
            )


def worst(of: Iterable[Mapping[str, Parity]]) -> dict[str, Parity]:
    """By hook, the worst that several loads of one engine came to."""
    by_hook: dict[str, list[Parity]] = {}
    for found in of:
        for hook, parity in found.items():
            by_hook.setdefault(hook, []).append(parity)
    return {hook: _worst(each) for hook, each in by_hook.items()}


def _worst(found: Sequence[Parity]) -> Parity:
    low, high = (min(each.norm_ratios[0] for each in found), max(each.norm_ratios[1] for each in found))
    return Parity(min(each.tokens for each in found), min(each.cosine for each in found), (low, high))
