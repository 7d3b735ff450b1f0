"""The numbers behind the overview's charts and the heat map; the page draws them."""

from typing import Any

import numpy as np
import pyarrow as pa

from tasks.report.kinds import hook_rows, short
from tasks.report.numbers import number, percent, significant

CURVES = {"fvu": "FVU", "loss": "Loss", "l0": "L0", "dead_fraction": "Dead latents"}
"""Columns of the training curve that get a chart, in this order, with its heading."""
CURVE_POINTS = 600
"""Points per curve: more than a chart is pixels wide helps nobody."""
HEATMAP_LATENTS = 48
"""Columns of the heat map."""

Json = dict[str, Any]


def training_curves(curve: pa.Table) -> list[Json]:
    """One chart per known column of the training curve, thinned to ``CURVE_POINTS`` points, the last one kept."""
    rows = np.unique(np.linspace(0, max(0, curve.num_rows - 1), CURVE_POINTS).round().astype(np.int64))
    thin = curve.take(pa.array(rows)) if curve.num_rows else curve
    tokens = thin["tokens"].to_pylist()
    return [
        {"name": name, "title": title, "x": tokens, "y": significant(_floats(thin[name]))}
        for name, title in CURVES.items()
        if name in thin.column_names and thin[name].null_count < thin.num_rows
    ]


def baselines(summary: Json) -> list[Json]:
    """FVU of the SAE and of each baseline on the same rows, best first."""
    found: Json = summary.get("baselines") or {}
    names = {
        "sae_same_rows": f"This {short(summary)}",
        "linear": "Linear map",
        "linear_rank_k": "Linear map of rank {components}",
        "training_rows": "Training rows, k = {k}",
        "pca": "PCA, {components} components",
        "random_directions": "Random directions, k = {k}",
        "mean": "Mean",
    }
    rows = [
        {"name": title.format_map(_Blank(found[key])), "fvu": found[key]["fvu"], "is_sae": key == "sae_same_rows"}
        for key, title in names.items()
        if found.get(key) and found[key].get("fvu") is not None
    ]
    return sorted(rows, key=lambda row: float(row["fvu"]))


def by_hook(summary: Json) -> list[Json]:
    """Figures of each hook of a crosscoder as text: hook, features, FVU, cosine and share of the decoder's norm."""
    return [
        {
            "hook": row["hook"],
            "d_in": number(row["d_in"]),
            "fvu": number(row["fvu"], 3),
            "cosine": number(row["cosine"], 3),
            "share": percent(row["decoder_norm_share"]),
        }
        for row in hook_rows(summary)
    ]


def density_histogram(summary: Json) -> Json | None:
    """Edges (log10 of density) and counts, or None where the summary has none.

    Bins below one row in all that were scored hold only latents that never fired; they are counted apart, as ``dead``.
    """
    histogram = summary.get("density_histogram")
    if not histogram or not histogram.get("counts"):
        return None
    edges, counts = np.array(histogram["edges"]), np.array(histogram["counts"])
    lowest = np.floor(-np.log10(max(10, summary.get("tokens") or 10)))
    first = min(int(np.searchsorted(edges, lowest)), len(counts) - 1)
    return {"edges": significant(edges[first:]), "counts": counts[first:].tolist(), "dead": int(counts[:first].sum())}


def position_norms(statistics: Json) -> Json | None:
    """Mean norm per position in the sequence, or None where positions mean nothing."""
    norms = [np.nan if norm is None else norm for norm in statistics.get("position_mean_norm") or []]
    if np.isfinite(norms).sum() < 2:
        return None
    return {"x": list(range(len(norms))), "y": significant(norms)}


def heat_map(table: pa.Table) -> Json:
    """Labels x the strongest latents, as a dense matrix of mean activations.

    Rows keep the order in which labels first occur. Columns are the ``HEATMAP_LATENTS`` latents with the largest
    entries, ordered by the row of their largest entry, so that what belongs together stands together.
    """
    labels = list(dict.fromkeys(table["label"].to_pylist()))
    row = {label: i for i, label in enumerate(labels)}
    all_latents, column = np.unique(table["latent"].to_numpy(), return_inverse=True)
    dense = np.zeros((len(labels), len(all_latents)))
    dense[[row[label] for label in table["label"].to_pylist()], column] = table["activation"].to_numpy()
    kept = np.argsort(-dense.max(axis=0, initial=0), kind="stable")[:HEATMAP_LATENTS]
    kept = kept[np.lexsort((-dense[:, kept].max(axis=0, initial=0), dense[:, kept].argmax(axis=0)))] if len(kept) else kept
    return {
        "labels": labels,
        "latents": all_latents[kept].tolist(),
        "n_latents": len(all_latents),
        "values": [significant(values) for values in dense[:, kept]],
    }


class _Blank(dict[str, Any]):
    """Numbers for a heading, a question mark where one is not given."""

    def __missing__(self, key: str) -> str:
        return "?"


def _floats(column: pa.ChunkedArray) -> list[float]:
    return [np.nan if value is None else value for value in column.to_pylist()]
