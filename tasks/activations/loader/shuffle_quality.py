"""How well training batches are shuffled, measured from where each row came from; no activation is read.

Rows of one document resemble each other, so a batch with many of them says less than its size promises, and batches near
each other that share documents pull the weights their way in turn. A uniform shuffle of the split is the ideal.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.activations.loader.lane_reader import deal_split
from tasks.activations.loader.shuffle_order import batches
from tasks.activations.reader import Split
from tasks.activations.row_ranges import Unit
from tasks.activations.schema import Array
from tasks.text.stored import read_sequences

LAGS = 8
_SEQUENCES_AT_A_TIME = 4096

Sources = npt.NDArray[np.int64]
"""The document, or the sequence, that each row is from, [n]."""


@dataclass(frozen=True, slots=True)
class ShuffleQuality:
    """What a uniform shuffle would give is 1 for ``ratio`` and 0 for both autocorrelations, up to noise."""

    source: Literal["document", "sequence"]
    batches: int
    """Batches measured, from the first on."""
    collision_rate: float
    """Of pairs of rows within a batch, the part that is from the same source."""
    ideal: float
    """The same of pairs within the whole split: the expectation of a uniform shuffle."""
    ratio_error: float
    """Standard error of ``ratio``, from the spread over batches."""
    autocorrelation: tuple[float, ...]
    """At 1 to 8 rows' distance in the stream of batches: (part of pairs from the same source - ideal) / (1 - ideal)."""
    batch_autocorrelation: tuple[float, ...]
    """Likewise of pairs of rows from batches 1 to 8 steps apart."""

    @property
    def ratio(self) -> float:
        """Collision rate over ideal."""
        return self.collision_rate / self.ideal if self.ideal else math.nan

    def to_json(self) -> dict[str, Any]:
        """All figures by name; null where there is none, as of a split where no two rows share a source."""
        found = asdict(self) | {"ratio": self.ratio}
        return {name: _finite(list(value) if isinstance(value, tuple) else value) for name, value in found.items()}


def shuffle_quality(
    uri: str,
    hook: str,
    *,
    batch_rows: int,
    lanes: int,
    seed: int,
    tokens: str | None = None,
    split: str = "train",
    most_batches: int = 256,
) -> ShuffleQuality:
    """Measure the first ``most_batches`` of an epoch of the very batches that ``LaneReader`` gives.

    Reads the columns ``sequence`` and ``position`` of all rows, and holds 8 bytes per row.

    Args:
        uri: stored activations.
        hook: one of their hooks.
        batch_rows: rows of a batch over all workers.
        lanes: as in training.
        seed: as in training.
        tokens: the tokens that were harvested; without them, sequences count instead of documents.
        split: of the activations.
        most_batches: fewer where the epoch is shorter; at least one.

    Raises:
        InputError: there are fewer rows than lanes.
        ArtifactError: a shard is damaged.
    """
    stored = Split(uri, hook, split)
    dealt = dict(enumerate(deal_split(stored, lanes, seed)))
    sources = [_sources(stored, index, tokens) for index in range(len(stored.shards))]
    starts = [np.cumsum([0, *shard["row_groups"]]) for shard in stored.shards]

    def of(units: Iterator[Unit]) -> Iterator[Array]:
        for unit in units:
            first = starts[unit.shard][unit.row_group]
            yield sources[unit.shard][first + unit.start : first + unit.stop]

    n = max(1, min(most_batches, stored.rows // batch_rows))
    stream = np.stack(list(batches(dealt, seed, batch_rows // lanes, 0, n, of))).astype(np.int64)
    return measure(stream, np.concatenate(sources), "document" if tokens else "sequence")


def measure(stream: npt.NDArray[np.int64], whole: Sources, source: Literal["document", "sequence"]) -> ShuffleQuality:
    """The same of given rows: the sources of each batch's rows [batches, rows], and of all rows of the split."""
    ideal = _collision_rate(whole)
    rates = np.array([_collision_rate(batch) for batch in stream])
    spread = float(rates.std(ddof=1)) / math.sqrt(len(rates)) if len(rates) > 1 else math.nan
    flat = stream.reshape(-1)
    near = [float(np.mean(flat[lag:] == flat[:-lag])) if len(flat) > lag else math.nan for lag in range(1, LAGS + 1)]
    return ShuffleQuality(
        source=source,
        batches=len(stream),
        collision_rate=float(rates.mean()),
        ideal=ideal,
        ratio_error=spread / ideal if ideal else math.nan,
        autocorrelation=tuple(_beyond(ideal, rate) for rate in near),
        batch_autocorrelation=tuple(_beyond(ideal, rate) for rate in _between_batches(stream)),
    )


def _sources(stored: Split, index: int, tokens: str | None) -> Sources:
    sequence, position = stored.places(index)
    if tokens is None or not len(sequence):
        return sequence
    found = np.empty(len(sequence), np.int64)
    # A shard's rows are of neighbouring sequences, so few are read for nothing.
    for first in range(int(sequence.min()), int(sequence.max()) + 1, _SEQUENCES_AT_A_TIME):
        n = min(_SEQUENCES_AT_A_TIME, int(sequence.max()) + 1 - first)
        documents = read_sequences(tokens, first, n, column="document")
        here = (sequence >= first) & (sequence < first + n)
        found[here] = documents[sequence[here] - first, position[here]]
    return found


def _collision_rate(sources: Sources) -> float:
    """Of all pairs of different rows, the part from the same source: sum n_s (n_s - 1) / (n (n - 1))."""
    n = len(sources)
    counts = np.unique(sources, return_counts=True)[1]
    return float(np.sum(counts * (counts - 1.0)) / (n * (n - 1.0))) if n > 1 else math.nan


def _between_batches(stream: npt.NDArray[np.int64]) -> list[float]:
    """Of pairs of rows from batches 1 to 8 apart, the part from the same source."""
    counted = [np.unique(batch, return_counts=True) for batch in stream]
    return [
        float(np.mean([_shared(one, other) for one, other in zip(counted, counted[lag:], strict=False)]))
        / stream.shape[1] ** 2
        if len(counted) > lag
        else math.nan
        for lag in range(1, LAGS + 1)
    ]


def _shared(one: tuple[Sources, Sources], other: tuple[Sources, Sources]) -> float:
    """Pairs of rows, one from each batch, with the same source."""
    _, here, there = np.intersect1d(one[0], other[0], assume_unique=True, return_indices=True)
    return float(one[1][here] @ other[1][there])


def _beyond(ideal: float, rate: float) -> float:
    return (rate - ideal) / (1 - ideal) if ideal < 1 else math.nan


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
