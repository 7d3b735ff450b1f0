from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
import torch

from tasks.activations.writer import Rows
from tasks.encode.pieces import Piece
from tasks.score import survey as module
from tasks.score.config import ScoreConfig
from tasks.score.definitions import definitions_for
from tasks.score.examples import Evidence
from tasks.score.roles import Kind
from tasks.score.summary import summary
from tasks.score.survey import MAX_LABELS, Survey, survey
from tasks.score.tables import heatmap_table
from tests.score.conftest import D_SAE, MakeSAE, text_rows

CONFIG = ScoreConfig(top_contexts=2)


def labelled(rows: Rows, labels: int) -> Rows:
    numbers = np.arange(len(rows))
    return Rows(rows.activation, rows.token_id, numbers, rows.position * 0, [f"label {(7 - n) % labels}" for n in numbers])


def look(sae: object, rows: Rows, median_norm: float = 1e9, cuts: tuple[int, ...] = ()) -> Survey:
    bounds = [0, *cuts, len(rows)]
    pieces = [Piece(0, a, b, a) for a, b in pairwise(bounds)]
    parts = [rows.take(np.arange(piece.start, piece.stop)) for piece in pieces]
    return reduce(
        add, [survey(sae, part, "float32", p, [median_norm], CONFIG) for part, p in zip(parts, pieces, strict=True)]
    )


@pytest.mark.parametrize("arch", ["topk", "l1", "dense"])
def test_the_summary_agrees_with_dense_float64_mathematics(make_sae: MakeSAE, arch: str) -> None:
    sae, rows = make_sae(arch), text_rows(30)
    x = rows.activation.astype(np.float64)
    norms = np.linalg.norm(x, axis=1)
    median = float(np.quantile(norms, 0.9)) / 2  # so a tenth of the rows is of high norm
    found = summary(look(sae, rows, median), None, {}, {})
    codes = sae.encode(torch.tensor(rows.activation)).double().numpy()
    x_hat = codes @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    error, usual = np.square(x - x_hat).sum(1), norms <= 2 * median
    active = codes > 0
    expected = {
        "tokens": len(x),
        "fvu": error.sum() / np.square(x - x.mean(0)).sum(),
        "fvu_without_high_norm": error[usual].sum() / np.square(x[usual] - x[usual].mean(0)).sum(),
        "high_norm_fraction": (~usual).mean(),
        "l0": active.sum(1).mean(),
        "dead_fraction": (~active.any(0)).mean(),
        "dense_fraction": (active.mean(0) > 0.1).mean(),
        "cosine": ((x * x_hat).sum(1) / norms / np.linalg.norm(x_hat, axis=1)).mean(),
        "shrinkage": (np.linalg.norm(x_hat, axis=1) / norms).mean(),
        "gamma": np.square(x_hat).sum() / (x * x_hat).sum(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert found["explained_variance"] == 1 - found["fvu"]
    assert found["l0_percentiles"]["50"] == np.quantile(active.sum(1), 0.5, method="inverted_cdf")
    assert sum(found["density_histogram"]["counts"]) == D_SAE
    assert found["ce"] is None
    assert found["ce_recovered"] is None


def test_every_definition_names_a_number_of_the_summary(make_sae: MakeSAE) -> None:
    splice = {"tokens": 1, "original": 1.0, "sae": 1.0, "zero_ablation": 2.0, "mean_ablation": 2.0, "delta_nats": 0.0}
    splice |= {"kl": 0.0, "recovered_vs_zero": 1.0, "recovered_vs_mean": 1.0}
    names = ("mean", "pca", "random_directions", "training_rows", "sae_same_rows")
    found = summary(look(make_sae(), text_rows(5)), splice, {name: {"fvu": 1.0} for name in names}, {})
    for name in found["definitions"]:
        value = found
        for part in name.split("."):
            value = value[part]
        assert value is not None, name
    undefined = {"definitions", "metrics", "ce", "baselines"}
    assert set(found) - undefined <= set(found["definitions"])


def test_metrics_are_listed_with_value_and_definition_in_the_order_of_the_definitions(make_sae: MakeSAE) -> None:
    splice = {"tokens": 1, "original": 1.0, "sae": 1.5, "recovered_vs_mean": 0.5}
    found = summary(look(make_sae(), text_rows(5)), splice, {"pca": {"fvu": 0.25}}, {})
    listed = {metric["name"]: metric for metric in found["metrics"]}
    assert list(listed) == [metric["name"] for metric in found["metrics"]]
    assert {name: metric["definition"] for name, metric in listed.items()} == found["definitions"]
    assert list(listed)[:2] == ["fvu", "explained_variance"]
    values = {name: metric["value"] for name, metric in listed.items()}
    assert (values["fvu"], values["ce.sae"], values["baselines.pca.fvu"]) == (found["fvu"], 1.5, 0.25)
    assert values["ce.kl"] is None


@pytest.mark.parametrize("kind", ["transcoder", "crosscoder"])
def test_what_was_trained_comes_first_and_is_defined_in_its_own_words(make_sae: MakeSAE, kind: Kind) -> None:
    about = {"kind": kind, "input_hooks": ["a"], "output_hooks": ["b"], "d_out": 8, "hooks": []}
    splice = {"sae": 1.0, "recovered_vs_mean": 0.5}
    found = summary(look(make_sae(), text_rows(5)), splice, {}, about, kind)
    assert [metric["name"] for metric in found["metrics"]][:3] == ["kind", "input_hooks", "output_hooks"]
    own = {"transcoder": ("ce.sae", "at the hook that is rebuilt"), "crosscoder": ("high_norm_fraction", "one hook or more")}
    name, words = own[kind]
    assert words in found["definitions"][name]
    assert words not in definitions_for("sae", spliced=True)[name]


def test_surveys_of_parts_add_to_that_of_the_whole(make_sae: MakeSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HITS_AT_ONCE", 20)
    sae, rows = make_sae(), labelled(text_rows(12), 3)
    whole, parts = look(sae, rows), look(sae, rows, cuts=(1, 30, 31))
    assert parts.rebuilt.every.fvu == pytest.approx(whole.rebuilt.every.fvu, rel=1e-6)
    assert parts.latents.n_active.tolist() == whole.latents.n_active.tolist()
    for a, b in zip(kept(parts.evidence), kept(whole.evidence), strict=True):
        assert a.tolist() == b.tolist()
    for label, total in whole.labels.totals.items():
        np.testing.assert_allclose(parts.labels.totals[label], total, rtol=1e-5)


def kept(evidence: Evidence) -> list[np.ndarray]:
    return [hits_part for hits in (evidence.top, evidence.sample) for hits_part in (hits.latent, hits.row)]


def test_the_heat_map_is_the_mean_activation_by_label_in_the_order_of_the_source(make_sae: MakeSAE) -> None:
    sae, rows = make_sae("l1"), labelled(text_rows(10), 4)
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    found = look(sae, shuffled, cuts=(20,))
    table = heatmap_table(found.labels, found.latents).to_pylist()
    assert list(dict.fromkeys(row["label"] for row in table)) == ["label 3", "label 2", "label 1", "label 0"]
    dense = sae.encode(torch.tensor(rows.activation)).double().numpy()
    assert len(table) == 4 * (dense > 0).any(0).sum()
    labels = np.array(rows.label)
    for row in table:
        assert row["activation"] == pytest.approx(dense[labels == row["label"], row["latent"]].mean(), rel=1e-5, abs=1e-9)


def test_more_labels_than_a_heat_map_can_show_are_dropped(make_sae: MakeSAE) -> None:
    sae, rows = make_sae(), text_rows(30)
    assert len(look(sae, labelled(rows, MAX_LABELS)).labels.rows) == MAX_LABELS
    for cuts in ((), (5, 100)):
        assert look(sae, labelled(rows, MAX_LABELS + 1), cuts=cuts).labels.rows == {}
    assert look(sae, rows).labels.rows == {}
