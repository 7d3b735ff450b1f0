import numpy as np
import pyarrow as pa

from tasks.report import figures
from tests.report.stages import SUMMARY


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    steps = np.arange(10_000)
    (curve,) = figures.training_curves(pa.table({"tokens": steps * 1024, "fvu": 1 / (1 + steps)}))
    assert len(curve["x"]) == figures.CURVE_POINTS
    assert (curve["x"][0], curve["x"][-1]) == (0, 9_999 * 1024)


def test_a_column_that_training_did_not_measure_gets_no_chart() -> None:
    curve = pa.table({"tokens": [1, 2], "loss": [0.5, 0.4], "l0": pa.array([None, None], pa.float64())})
    assert [chart["name"] for chart in figures.training_curves(curve)] == ["loss"]


def test_an_empty_curve_gets_no_charts() -> None:
    assert figures.training_curves(pa.table({"tokens": pa.array([], pa.int64()), "fvu": pa.array([], pa.float64())})) == []


def test_baselines_come_best_first_with_the_sae_among_them() -> None:
    rows = figures.baselines(SUMMARY)
    assert [row["name"] for row in rows] == [
        "This SAE",
        "Training rows, k = 32",
        "PCA, 32 components",
        "Random directions, k = 32",
        "Mean",
    ]
    assert [row["is_sae"] for row in rows] == [True, False, False, False, False]


def test_latents_that_never_fired_are_counted_apart_from_the_histogram() -> None:
    edges = np.linspace(-10, 0, 11).tolist()
    summary = {"tokens": 5_000, "density_histogram": {"edges": edges, "counts": [7, 0, 0, 0, 0, 0, 1, 5, 3, 0]}}
    assert figures.density_histogram(summary) == {"edges": [-4, -3, -2, -1, 0], "counts": [1, 5, 3, 0], "dead": 7}


def test_no_histogram_no_chart() -> None:
    assert figures.density_histogram({}) is None


def test_position_norms_need_positions() -> None:
    assert figures.position_norms({"position_mean_norm": None}) is None
    assert figures.position_norms({"position_mean_norm": [None, 140.2, 127]}) == {"x": [0, 1, 2], "y": [None, 140.2, 127]}


def test_the_heat_map_keeps_the_order_of_labels_and_groups_latents_by_their_best_label() -> None:
    cells = [("cat", 4, 0.1), ("cat", 9, 2.0), ("dog", 4, 0.7), ("dog", 9, 0.0), ("cat", 2, 3.0)]
    labels, latents, values = zip(*cells, strict=True)
    table = pa.table({"label": labels, "latent": pa.array(latents, pa.int32()), "activation": values})
    assert figures.heat_map(table) == {
        "labels": ["cat", "dog"],
        "latents": [2, 9, 4],
        "n_latents": 3,
        "values": [[3, 2, 0.1], [0, 0, 0.7]],
    }


def test_the_heat_map_keeps_the_strongest_latents() -> None:
    n = figures.HEATMAP_LATENTS + 10
    table = pa.table({"label": ["x"] * n, "latent": pa.array(range(n), pa.int32()), "activation": np.arange(n) + 1.0})
    found = figures.heat_map(table)
    assert sorted(found["latents"]) == list(range(10, n))
    assert found["n_latents"] == n
