"""The survey that runs on a GPU, run on this CPU beside the one that runs on CPUs: the same hits and sums."""

import itertools
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
import torch

from tasks.activations.writer import Rows
from tasks.encode import chunks
from tasks.encode.codes import TensorCodes
from tasks.encode.pieces import Piece
from tasks.sae import SparseAutoencoder
from tasks.score import device_evidence
from tasks.score.config import ScoreConfig
from tasks.score.device_evidence import EvidenceOnDevice, TensorHits, priority, rank_in_group
from tasks.score.device_sums import reconstruction_sums
from tasks.score.device_survey import survey_on_device
from tasks.score.examples import Evidence, Hits
from tasks.score.examples import priority as priority_of_cpus
from tasks.score.roles import Roles
from tasks.score.stats import ReconstructionSums
from tasks.score.survey import Survey, survey
from tests.sampled import sampled
from tests.score.conftest import D_IN, MakeSAE, text_rows

CPU = torch.device("cpu")
FEW, NONE_SAMPLED = ScoreConfig(top_contexts=2, quantiles=2, contexts_per_quantile=1), ScoreConfig(quantiles=0)


def cut(rows: Rows, cuts: tuple[int, ...]) -> Iterator[tuple[Piece, Rows]]:
    for a, b in itertools.pairwise([0, *cuts, len(rows)]):
        yield Piece(0, a, b, a), rows.take(np.arange(a, b))


def both(
    sae: SparseAutoencoder,
    rows: Rows,
    config: ScoreConfig = FEW,
    cuts: tuple[int, ...] = (),
    medians: tuple[float, ...] = (5.0,),
    roles: Roles | None = None,
) -> tuple[Survey, Survey]:
    """The survey by the code for GPUs, and by that for CPUs."""
    ours = survey_on_device(sae, cut(rows, cuts), "float32", medians, config, roles)
    theirs = [survey(sae, part, "float32", piece, medians, config, roles) for piece, part in cut(rows, cuts)]
    return reduce(add, ours), reduce(add, theirs)


def assert_same(ours: Survey, theirs: Survey) -> None:
    for a, b in ((ours.evidence.top, theirs.evidence.top), (ours.evidence.sample, theirs.evidence.sample)):
        assert hits(a) == hits(b)
    for name in ("n_active", "largest", "tokens_by_l0"):
        np.testing.assert_array_equal(getattr(ours.latents, name), getattr(theirs.latents, name))
        assert getattr(ours.latents, name).dtype == getattr(theirs.latents, name).dtype
    np.testing.assert_allclose(ours.latents.total, theirs.latents.total, rtol=1e-12)
    assert ours.latents.n_tokens == theirs.latents.n_tokens
    pairs = [(ours.rebuilt.every, theirs.rebuilt.every), (ours.rebuilt.usual, theirs.rebuilt.usual)]
    for a, b in [*pairs, *zip(ours.rebuilt.by_hook, theirs.rebuilt.by_hook, strict=True)]:
        assert_same_sums(a, b)
    assert ours.labels.rows == theirs.labels.rows
    for label, total in theirs.labels.totals.items():
        np.testing.assert_allclose(ours.labels.totals[label], total, rtol=1e-12)


def hits(found: Hits) -> list[tuple[Any, ...]]:
    columns = (found.latent, found.value, found.row, found.sequence)
    assert [column.dtype for column in columns] == [np.int64, np.float32, np.int64, np.int64]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def assert_same_sums(a: ReconstructionSums, b: ReconstructionSums) -> None:
    assert a.x.count == b.x.count
    np.testing.assert_allclose(a.x.mean, b.x.mean, rtol=1e-12)
    for name in ("error", "cosine", "norm_ratio", "x_hat_square", "x_dot_x_hat"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-12), name
    assert a.x.deviation == pytest.approx(b.x.deviation, rel=1e-12)


@pytest.mark.parametrize("arch, cuts", sampled(itertools.product(["topk", "l1", "dense"], [(), (1, 60, 61)]), share=0.5))
def test_hits_are_equal_and_sums_are_to_rounding(
    arch: str, cuts: tuple[int, ...], make_sae: MakeSAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", 16)
    monkeypatch.setattr(device_evidence, "_HITS_AT_ONCE", 50)  # lists are merged many times
    sae, rows = make_sae(arch), text_rows(30)
    ours, theirs = both(sae, rows, cuts=cuts)
    assert_same(ours, theirs)
    assert 0 < ours.rebuilt.usual.x.count < ours.rebuilt.every.x.count
    assert len(ours.evidence.top) >= 10
    assert len(ours.evidence.sample) > 50


def test_the_stronger_of_equal_sequences_and_the_earlier_of_equal_hits_stay(
    make_sae: MakeSAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", 16)
    monkeypatch.setattr(device_evidence, "_HITS_AT_ONCE", 10)
    rows = text_rows(12)
    again = rows.take(np.tile(np.arange(20), 8))  # each row eight times, in sequences that come back
    ours, theirs = both(make_sae(), Rows(again.activation, again.token_id, np.arange(160) // 7 % 9, again.position))
    assert_same(ours, theirs)


@pytest.mark.parametrize("config", [NONE_SAMPLED, ScoreConfig(), ScoreConfig(top_contexts=1)])
def test_lists_have_the_lengths_that_are_asked_for(config: ScoreConfig, make_sae: MakeSAE) -> None:
    ours, theirs = both(make_sae("l1"), text_rows(20), config)
    assert_same(ours, theirs)
    assert np.bincount(ours.evidence.top.latent).max() == min(config.top_contexts, 20)


def test_where_nothing_fires_there_are_no_hits(make_sae: MakeSAE) -> None:
    sae = make_sae("l1")
    sae.b_enc.sub_(1000)
    ours, theirs = both(sae, text_rows(4))
    assert_same(ours, theirs)
    assert len(ours.evidence.top) == len(ours.evidence.sample) == 0


@pytest.mark.parametrize("median", [1e-9, 1e9], ids=["none usual", "all usual"])
def test_rows_of_high_norm_are_left_out_where_they_are_to_be(median: float, make_sae: MakeSAE) -> None:
    ours, theirs = both(make_sae(), text_rows(5), medians=(median,), cuts=(10,))
    assert_same(ours, theirs)
    assert ours.rebuilt.usual.x.count == (0 if median < 1 else len(text_rows(5)))


def test_a_transcoder_and_a_crosscoder_are_surveyed_by_their_roles(make_sae: MakeSAE) -> None:
    rows = text_rows(15)
    wide = Rows(np.hstack([rows.activation, rows.activation[:, :5] ** 2]), rows.token_id, rows.sequence, rows.position)
    transcoder = Roles(kind="transcoder", reads=slice(0, D_IN), rebuilds=slice(D_IN, D_IN + 5))
    assert_same(*both(make_sae(d_out=5), wide, roles=transcoder, medians=(30.0,)))
    parts, scale = (slice(0, D_IN), slice(D_IN, D_IN + 5)), np.repeat([0.5, 2.0], [D_IN, 5])
    crosscoder = Roles(kind="crosscoder", parts=parts, scale=scale)
    ours, theirs = both(make_sae(d_in=D_IN + 5), wide, roles=crosscoder, medians=(5.0, 30.0))
    assert_same(ours, theirs)
    assert len(ours.rebuilt.by_hook) == 2


def test_labels_are_summed_as_on_a_cpu(make_sae: MakeSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", 16)
    rows = text_rows(12)
    names = [f"label {n % 3}" for n in range(len(rows))]
    ours, theirs = both(make_sae(), Rows(rows.activation, rows.token_id, rows.sequence, rows.position, names))
    assert_same(ours, theirs)
    assert len(ours.labels.rows) == 3


def test_each_piece_has_its_own_sums_and_the_first_all_evidence(make_sae: MakeSAE) -> None:
    sae, rows = make_sae(), text_rows(20)
    found = survey_on_device(sae, cut(rows, (30, 70)), "float32", [5.0], FEW)
    assert [one.latents.n_tokens for one in found] == [30, 40, len(rows) - 70]
    assert len(found[0].evidence.top) > 0
    assert [len(one.evidence.top) + len(one.evidence.sample) for one in found[1:]] == [0, 0]


def test_evidence_and_none_is_that_evidence(make_sae: MakeSAE) -> None:
    ours, _ = both(make_sae(), text_rows(6))
    none = Evidence.none(FEW)
    assert ours.evidence + none is ours.evidence
    assert hits((none + ours.evidence).top) == hits(ours.evidence.top)


def test_priorities_are_those_of_cpus_less_2_to_the_63() -> None:
    rng = np.random.default_rng(0)
    row, latent = rng.integers(0, 2**40, 1000), rng.integers(0, 2**23, 1000)
    on_cpu = priority_of_cpus(Hits(latent, np.ones(1000, np.float32), row, row))
    found = priority(TensorHits(torch.from_numpy(latent), torch.ones(1000), torch.from_numpy(row), torch.from_numpy(row)))
    assert [number + 2**63 for number in found.tolist()] == on_cpu.tolist()


def test_places_are_counted_within_runs() -> None:
    assert rank_in_group(torch.tensor([4, 4, 7, 7, 7, 9])).tolist() == [0, 1, 0, 1, 2, 0]
    assert rank_in_group(torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_few_of_many_hits_are_kept_waiting() -> None:
    codes = TensorCodes(torch.ones(3000, dtype=torch.int64), torch.zeros(3000, dtype=torch.int64), torch.rand(3000) + 1)
    evidence = EvidenceOnDevice(Evidence.none(FEW), 1, CPU)
    evidence.see(TensorHits.of(codes, 0, torch.arange(3000)))
    evidence.kept()
    evidence.see(TensorHits.of(codes, 3000, torch.arange(3000, 6000)))
    assert sum(map(len, evidence._top._waiting)) == 1, "the others are no stronger than the weaker of the two that are kept"
    assert 0 < sum(map(len, evidence._sample._waiting)) < 100


def test_sums_of_rows_that_are_0_are_defined() -> None:
    x, x_hat = torch.zeros(3, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    for a, b in ((x, x_hat), (x_hat, x), (x, x), (x[:0], x[:0])):
        assert_same_sums(reconstruction_sums(a, b), ReconstructionSums.of(a.numpy(), b.numpy()))
