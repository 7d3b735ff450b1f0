"""How far an engine's activations are from those of transformers, token by token.

Two computations of one model in bfloat16 differ, at a few tokens by much. SmolLM2-135M with transformers' own two attentions
(sdpa and eager), 2,048 tokens of text, at the outputs of nine layers from the first to the last: 99 tokens in 100 have a
cosine of .99965 or more and 95 in 100 a norm within .8%, but the worst have .9944 and 6.8%. With the 9th layer in place of
the 10th that is .876, 18.7% and, at the worst, .616. So most tokens are held to a strict bound, and all to a loose one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from typing_extensions import override

from tasks.lm.engines.errors import EngineError

TOKENS = 2048
"""How many are compared, where the corpus has so many."""
COSINE, LEAST_COSINE, NORM_ERROR = 0.999, 0.9, 0.01
_SHARE_OF_COSINES, _SHARE_OF_NORMS = 0.99, 0.95
"""Of the tokens, that are held to the strict bounds."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How near an engine comes to transformers at one hook."""

    tokens: int
    """Compared."""
    cosine: float
    """Reached by 99 tokens in 100."""
    least_cosine: float
    """Reached by all."""
    norm_error: float
    """How far norms are apart, as a part of transformers': 95 tokens in 100 are not further."""

    @property
    def holds(self) -> bool:
        """Whether these are the same activations but for rounding; never where one is NaN."""
        return self.cosine >= COSINE and self.least_cosine >= LEAST_COSINE and self.norm_error <= NORM_ERROR

    @override
    def __str__(self) -> str:
        return (
            f"of {self.tokens:,} tokens 99% have a cosine of {self.cosine:.5f} or more, all of {self.least_cosine:.5f}, and "
            f"95% a norm within {self.norm_error:.2%}"
        )


def compared(found: Tensor, expected: Tensor) -> Parity:
    """Parity of activations [..., d_in] of the same tokens in the same order: the engine's, and those of transformers."""
    ours, theirs = (rows.flatten(0, -2).cpu().double() for rows in (found, expected))
    norms = torch.linalg.vector_norm(ours, dim=1) / torch.linalg.vector_norm(theirs, dim=1)
    cosines = cosine_similarity(ours, theirs, dim=1)
    most = cosines.quantile(1 - _SHARE_OF_COSINES)
    return Parity(len(ours), float(most), float(cosines.min()), float((norms - 1).abs().quantile(_SHARE_OF_NORMS)))


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
            raise EngineError(
                f"{engine} gives other activations than transformers at {hook}: {parity}, where {COSINE}, {LEAST_COSINE} "
                f"and {NORM_ERROR:.0%} are asked for. Set model.engine to transformers."
            )


def worst(of: Iterable[Mapping[str, Parity]]) -> dict[str, Parity]:
    """By hook, the worst that several loads of one engine came to."""
    by_hook: dict[str, list[Parity]] = {}
    for found in of:
        for hook, parity in found.items():
            by_hook.setdefault(hook, []).append(parity)
    return {hook: _worst(each) for hook, each in by_hook.items()}


def _worst(found: Sequence[Parity]) -> Parity:
    return Parity(
        tokens=min(each.tokens for each in found),
        cosine=min(each.cosine for each in found),
        least_cosine=min(each.least_cosine for each in found),
        norm_error=max(each.norm_error for each in found),
    )
