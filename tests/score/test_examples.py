from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.encode.codes import TensorCodes
from tasks.score.config import ScoreConfig
from tasks.score.examples import ChosenContexts, Evidence, Hits, choose, priority, rank_in_group

ROWS, LATENTS, PER_SEQUENCE = 60, 4, 5
CONFIG = ScoreConfig(top_contexts=3, quantiles=2, contexts_per_quantile=1)


def dense(seed: int) -> np.ndarray:
    """Activations with many zeros and many ties."""
    return np.maximum(np.random.default_rng(seed).integers(-6, 6, (ROWS, LATENTS)), 0).astype(np.float32)


def hits_of(values: np.ndarray, first: int = 0) -> Hits:
    codes = TensorCodes.of_dense(torch.from_numpy(values)).in_main_memory()
    return Hits.of(codes, first, (np.arange(len(values)) + first) // PER_SEQUENCE)


def as_tuples(hits: Hits) -> list[tuple[int, float, int]]:
    return list(zip(hits.latent.tolist(), hits.value.tolist(), hits.row.tolist(), strict=True))


def naive_top(values: np.ndarray, latent: int, n: int) -> list[tuple[int, float, int]]:
    ranked = sorted((-value, row) for row, value in enumerate(values[:, latent]) if value > 0)
    seen: set[int] = set()
    kept = []
    for value, row in ranked:
        if row // PER_SEQUENCE not in seen:
            seen.add(row // PER_SEQUENCE)
            kept.append((latent, float(-value), row))
    return kept[:n]


seeds = st.integers(0, 1000)
cuts = st.lists(st.integers(0, ROWS), max_size=6)


@settings(deadline=None)
@given(seeds)
def test_the_top_list_is_the_strongest_row_of_the_strongest_sequences(seed: int) -> None:
    values = dense(seed)
    found = as_tuples(Evidence.none(CONFIG).seeing(hits_of(values)).top)
    assert found == [hit for latent in range(LATENTS) for hit in naive_top(values, latent, 3)]


@settings(deadline=None)
@given(seeds, cuts, st.booleans())
def test_evidence_is_the_same_however_rows_are_split(seed: int, at: list[int], backwards: bool) -> None:
    values = dense(seed)
    whole = Evidence.none(CONFIG).seeing(hits_of(values))
    starts = sorted({0, *at})
    parts = [hits_of(values[a:b], a) for a, b in zip(starts, [*starts[1:], ROWS], strict=True)]
    one_by_one = reduce(Evidence.seeing, parts, Evidence.none(CONFIG))
    order = parts[::-1] if backwards else parts
    added = reduce(add, [Evidence.none(CONFIG).seeing(part) for part in order])
    for found in (one_by_one, added):
        assert as_tuples(found.top) == as_tuples(whole.top)
        assert as_tuples(found.sample) == as_tuples(whole.sample)


def test_the_sample_is_the_hits_of_lowest_priority() -> None:
    values = np.ones((200, 2), np.float32)
    hits = hits_of(values)
    evidence = Evidence.none(CONFIG).seeing(hits)
    assert evidence.n_sample == 16
    for latent in range(2):
        own = hits.take(hits.latent == latent)
        expected = own.row[np.argsort(priority(own))[:16]]
        assert evidence.sample.row[evidence.sample.latent == latent].tolist() == expected.tolist()


def test_priorities_are_spread_evenly_and_differ_between_latents() -> None:
    hits = hits_of(np.ones((5000, 2), np.float32))
    shares = priority(hits) / 2.0**64
    counts, _ = np.histogram(shares, bins=10, range=(0, 1))
    assert counts == pytest.approx(1000, abs=150)
    first, second = (shares[hits.latent == latent] for latent in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def chosen(values: np.ndarray, config: ScoreConfig) -> ChosenContexts:
    return choose(Evidence.none(config).seeing(hits_of(values)), config)


def test_quantile_contexts_lie_in_their_quantile_and_not_in_the_top_list() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 61))[:, None].astype(np.float32)
    config = ScoreConfig(top_contexts=2, quantiles=3, contexts_per_quantile=4)
    contexts = chosen(values, config)  # the sample holds all 60, so the quantiles are exact: 60-41, 40-21, 20-1
    for group, (low, high) in {1: (41, 60), 2: (21, 40), 3: (1, 20)}.items():
        inside = contexts.hits.value[contexts.group == group]
        assert len(inside) == 4
        assert ((inside >= low) & (inside <= high)).all()
    top = set(contexts.hits.row[contexts.group == 0].tolist())
    assert top.isdisjoint(contexts.hits.row[contexts.group > 0].tolist())


def test_contexts_are_ranked_from_strong_to_weak_within_their_group() -> None:
    contexts = chosen(dense(3), ScoreConfig(top_contexts=3, quantiles=2, contexts_per_quantile=2))
    for latent in range(LATENTS):
        for group in range(3):
            own = contexts.take((contexts.hits.latent == latent) & (contexts.group == group))
            assert own.rank.tolist() == list(range(len(own)))
            assert (np.diff(own.hits.value) <= 0).all()


def test_sequences_not_shown_yet_are_preferred() -> None:
    values = np.zeros((20, 1), np.float32)  # four sequences of five rows
    values[:5] = [[20], [9], [8], [7], [6]]  # four lower hits in the top hit's sequence
    values[7] = 8.5  # and one in another
    contexts = chosen(values, ScoreConfig(top_contexts=1, quantiles=1, contexts_per_quantile=1))
    assert contexts.hits.row.tolist() == [0, 7]


def test_a_latent_that_fires_in_one_sequence_still_shows_its_lower_quantiles() -> None:
    values = np.zeros((5, 1), np.float32)
    values[:, 0] = [5, 4, 3, 2, 1]
    contexts = chosen(values, ScoreConfig(top_contexts=4, quantiles=1, contexts_per_quantile=2))
    assert (contexts.group == 0).sum() == 1
    assert (contexts.group == 1).sum() == 2


def test_no_quantiles_and_silent_latents_give_no_contexts() -> None:
    config = ScoreConfig(quantiles=0)
    assert (chosen(dense(0), config).group == 0).all()
    assert len(chosen(np.zeros((10, 2), np.float32), config)) == 0
    assert len(chosen(np.zeros((10, 2), np.float32), CONFIG)) == 0


def test_between_takes_the_rows_of_a_piece() -> None:
    contexts = chosen(dense(1), CONFIG)
    rows = contexts.between(10, 30).hits.row
    assert sorted(rows.tolist()) == sorted(row for row in contexts.hits.row.tolist() if 10 <= row < 30)


def test_rank_in_group_counts_within_runs() -> None:
    assert rank_in_group(np.array([4, 4, 7, 9, 9, 9])).tolist() == [0, 1, 0, 0, 1, 2]
    assert rank_in_group(np.zeros(0, np.int64)).tolist() == []
