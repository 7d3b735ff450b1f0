"""The summary: every number of a run, each with the one sentence that says exactly what it is (``definitions.py``)."""

from collections.abc import Mapping
from typing import Any

from tasks.hook_roles import Kind
from tasks.score.definitions import definitions_for, metrics
from tasks.score.stats import DENSITY_EDGES, LatentSums
from tasks.score.survey import Survey

_PERCENTILES = (5, 25, 50, 75, 95)


def summary(
    found: Survey,
    splice: Mapping[str, Any] | None,
    baselines: Mapping[str, Any],
    about: Mapping[str, Any],
    kind: Kind = "sae",
) -> dict[str, Any]:
    """The content of summary.json, with all its metrics once more as a list for those who show them.

    ``about`` holds what is known beforehand, such as the hook and eval_is_train.
    """
    every, usual = found.rebuilt.every, found.rebuilt.usual
    fvu = every.fvu
    definitions = definitions_for(kind, spliced=splice is not None)
    numbers = {
        "fvu": fvu,
        "explained_variance": None if fvu is None else 1 - fvu,
        "fvu_without_high_norm": usual.fvu,
        "high_norm_fraction": (every.x.count - usual.x.count) / every.x.count,
        "cosine": every.mean_cosine,
        "shrinkage": every.shrinkage,
        "gamma": every.gamma,
        "tokens": every.x.count,
        **_latent_numbers(found.latents),
        "ce": splice,
        "ce_recovered": splice["recovered_vs_mean"] if splice else None,
        "baselines": baselines,
        "definitions": definitions,
        **about,
    }
    return {**numbers, "metrics": metrics(numbers, definitions)}


def _latent_numbers(latents: LatentSums) -> dict[str, Any]:
    return {
        "l0": latents.l0,
        "l0_percentiles": {str(percent): latents.l0_percentile(percent) for percent in _PERCENTILES},
        "dead_fraction": latents.dead_fraction,
        "dense_fraction": latents.dense_fraction,
        "density_histogram": {"edges": DENSITY_EDGES.tolist(), "counts": latents.density_histogram.tolist()},
    }
