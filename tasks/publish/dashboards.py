"""What a page of a latent shows, read from its scores: one pass over the stored tables, nothing is encoded again."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.publish.scored import ScoredSae
from tasks.text.stored import read_sequences
from tasks.token_strings import load_strings

MOST_TOKENS = 1024
"""Of a context, the most that Neuronpedia takes."""
_AT_ONCE = 128
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LatentContext:
    """Text in which a latent fires, with its activation on each token."""

    tokens: list[str]
    """None is empty: a part of a character stands in its bytes, such as ``\\xf0\\x9f``."""
    values: list[float]
    peak: int
    kind: str
    """top, or q1 for the highest of the lower quantiles, and so on."""
    position: int
    """Of the peak in its sequence."""
    low: float
    high: float
    """The interval of activations that it stands for."""
    share: float
    """The share of the latent's activations in that interval."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One latent that fires."""

    latent: int
    density: float
    """Share of the scored rows on which it fires."""
    largest: float
    histogram: list[int]
    """Activations in equal steps between 0 and the largest."""
    promoted: list[tuple[str, float]]
    """Tokens with their logits, the highest first."""
    suppressed: list[tuple[str, float]]
    """The lowest first."""
    neighbours: list[tuple[int, float]]
    """Latents with the cosine of their decoder rows."""
    contexts: list[LatentContext]
    """The strongest first, then those of lower quantiles."""


def dashboards(found: ScoredSae, only: Collection[int] | None = None) -> Iterator[Dashboard]:
    """Of all latents that fired on a scored row, or those of them in ``only``, in their order; others show nothing."""
    n, examples = found.latents.num_rows, found.examples
    bounds = np.searchsorted(examples["latent"].to_numpy(), np.arange(n + 1))
    strings = _Strings(found)
    quantiles = _quantiles(found)
    for first in range(0, n, _AT_ONCE):
        if only is not None and not any(first <= latent < first + _AT_ONCE for latent in only):
            continue
        rows = found.latents.slice(first, _AT_ONCE).to_pylist()
        start, stop = int(bounds[first]), int(bounds[min(first + _AT_ONCE, n)])
        contexts = examples.slice(start, stop - start).to_pylist()
        for row in rows:
            own = contexts[bounds[row["latent"]] - start : bounds[row["latent"] + 1] - start]
            if row["n_active"] and own and (only is None or row["latent"] in only):
                yield _dashboard(row, own, quantiles, strings)


def number(value: float) -> float:
    """Seven significant digits: within 5e-7 of the value, which float32 holds to 6e-8, and half as long on a page."""
    return float(f"{value:.7g}")


def token(text: str) -> str:
    """A token's text as databases take it: not empty, and without NUL."""
    return text.replace("\0", "\\x00") or _UNKNOWN


def _quantiles(found: ScoredSae) -> int:
    asked = found.scored.get("recipe", {}).get("score", {}).get("quantiles")
    return max(int(asked or 0), max(found.examples["group"].to_pylist(), default=0))


def _dashboard(row: Row, contexts: list[Row], quantiles: int, strings: "_Strings") -> Dashboard:
    spread = _Spread.of(row["histogram"], row["max_activation"])
    top = [context["activation"] for context in contexts if not context["group"]]
    return Dashboard(
        latent=row["latent"],
        density=number(row["density"]),
        largest=number(row["max_activation"]),
        histogram=row["histogram"],
        promoted=[(token(each["token"]), number(each["logit"])) for each in row["promoted"]],
        suppressed=[(token(each["token"]), number(each["logit"])) for each in row["suppressed"]],
        neighbours=[(each["latent"], number(each["cosine"])) for each in row["neighbours"]],
        contexts=[_context(each, top, quantiles, spread, strings) for each in contexts],
    )


def _context(row: Row, top: list[float], quantiles: int, spread: "_Spread", strings: "_Strings") -> LatentContext:
    low, high, share = spread.interval(row["group"], quantiles, top)
    tokens, values, peak = strings.of(row), row["token_activations"], row["peak"]
    start = max(0, min(peak - MOST_TOKENS // 2, len(tokens) - MOST_TOKENS))
    stop = start + MOST_TOKENS
    return LatentContext(
        tokens=tokens[start:stop],
        values=[number(value) if value else 0.0 for value in values[start:stop]],
        peak=peak - start,
        kind=row["kind"],
        position=row["position"],
        low=number(min(low, row["activation"])),
        high=number(max(high, row["activation"])),
        share=number(share),
    )


@dataclass(frozen=True, slots=True)
class _Spread:
    """How a latent's activations lie between 0 and the largest, from its histogram; even within a bar."""

    edges: NDArray[np.float64]
    below: NDArray[np.float64]
    """Share of the activations below each edge."""

    @classmethod
    def of(cls, histogram: list[int], largest: float) -> "_Spread":
        below = np.concatenate([[0.0], np.cumsum(histogram, dtype=np.float64)])
        return cls(np.linspace(0.0, largest, len(below)), below / max(1.0, below[-1]))

    def interval(self, group: int, quantiles: int, top: list[float]) -> tuple[float, float, float]:
        """Bounds and share of a group: 0 is all as strong as the weakest of the top list, i the i-th quantile from above."""
        if not group:
            low = min(top)
            return low, float(self.edges[-1]), float(1 - np.interp(low, self.edges, self.below))
        low, high = (float(np.interp(1 - part / quantiles, self.below, self.edges)) for part in (group, group - 1))
        return low, high, 1 / quantiles


class _Strings:
    """Texts of contexts' tokens. A part of a character is empty there, since the whole one stands at its last token."""

    def __init__(self, found: ScoredSae) -> None:
        self._tokens = found.tokens
        self._sequences = found.examples["sequence"]
        self._ids: NDArray[np.int32] | None = None
        self._first = 0

    def of(self, row: Row) -> list[str]:
        """One for each token, none empty."""
        texts = [text or "" for text in row["tokens"]]
        if all(texts) or self._tokens is None:
            return [token(text) for text in texts]
        names, start = load_strings(self._tokens), row["position"] - row["peak"]
        ids = self._token_ids(self._tokens)[row["sequence"] - self._first, start : start + len(texts)].tolist()
        return [token(text or names.of_token(token_id)) for text, token_id in zip(texts, ids, strict=True)]

    def _token_ids(self, tokens: str) -> NDArray[np.int32]:
        """Of all sequences from the first to the last that a context is from: the held-out ones, which lie together."""
        if self._ids is None:
            numbers = self._sequences.to_numpy()
            self._first = int(numbers.min())
            self._ids = read_sequences(tokens, self._first, int(numbers.max()) - self._first + 1)
        return self._ids
