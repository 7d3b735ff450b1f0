"""The summary: every number of a run, each with the one sentence that says exactly what it is."""

from collections.abc import Mapping
from typing import Any

from tasks.score.stats import DENSITY_EDGES, LatentSums
from tasks.score.survey import Survey

_PERCENTILES = (5, 25, 50, 75, 95)

DEFINITIONS = {
    "fvu": "Fraction of variance unexplained: the sum of ||x - x_hat||^2 over all scored rows, over the sum of "
    "||x - mean||^2 with the mean of the same rows; totals in float64, never a mean of batches.",
    "explained_variance": "1 - fvu.",
    "fvu_without_high_norm": "fvu of the rows whose norm is at most twice the recorded median norm of held-out rows, "
    "with those rows' own mean.",
    "high_norm_fraction": "Share of scored rows whose norm is above twice the recorded median norm of held-out rows.",
    "l0": "Mean number of latents above 0 per scored row.",
    "l0_percentiles": "The smallest number of active latents that the given percentage of scored rows does not exceed.",
    "dead_fraction": "Share of latents that are above 0 on none of the scored rows; one that fires on a share p of all "
    "rows is missed with probability (1 - p)^tokens.",
    "dense_fraction": "Share of latents that are above 0 on more than 10% of the scored rows.",
    "density_histogram": "Number of latents by log10(p + 1e-10), p being the share of scored rows on which the latent is "
    "above 0.",
    "cosine": "Mean over scored rows of the cosine of x and x_hat.",
    "shrinkage": "Mean over scored rows of ||x_hat|| / ||x||; 1 is none.",
    "gamma": "E||x_hat||^2 / E[x . x_hat], below 1 when reconstructions are too short (Gated SAEs, equation 10).",
    "tokens": "Scored rows: the first score.max_tokens of the held-out rows that the harvest's masks left.",
}

CE_DEFINITIONS = {
    "ce.tokens": "Predicted tokens: all but the first of each sequence, in whole held-out sequences evenly spaced over the "
    "split, about score.splice_tokens in all.",
    "ce.original": "Mean cross-entropy of the model's prediction of these tokens, in nats.",
    "ce.sae": "The same with x_hat in place of x at the hook, wherever the harvest keeps the activation; masked positions "
    "(first position, special tokens, norm outliers) go on with their own activation, here and in both ablations.",
    "ce.zero_ablation": "The same with zeros in place of x_hat.",
    "ce.mean_ablation": "The same with the mean of the training rows in place of x_hat.",
    "ce.delta_nats": "ce.sae - ce.original.",
    "ce.recovered_vs_zero": "(ce.zero_ablation - ce.sae) / (ce.zero_ablation - ce.original).",
    "ce.recovered_vs_mean": "(ce.mean_ablation - ce.sae) / (ce.mean_ablation - ce.original).",
    "ce.kl": "Mean KL divergence of the prediction with the SAE from the original prediction, KL(original || sae), in nats.",
    "ce_recovered": "ce.recovered_vs_mean.",
}

BASELINE_DEFINITIONS = {
    "baselines.sae_same_rows.fvu": "fvu of the SAE on score.baseline_tokens rows evenly spaced over the scored rows (on "
    "fewer where k is large); all baselines are measured on these rows.",
    "baselines.mean.fvu": "fvu of the rows' own mean: 1 by definition, the yardstick.",
    "baselines.pca.fvu": "fvu of the projection on the k first principal components of at most 100,000 training rows, about "
    "their mean; k is that of the SAE, or its rounded l0.",
    "baselines.random_directions.fvu": "fvu with d_sae random unit directions as the dictionary: for each row less the "
    "training mean, the k of largest |dot product|, weighted by least squares.",
    "baselines.training_rows.fvu": "The same with d_sae training rows, less their mean and scaled to norm 1, as the "
    "dictionary (all rows where the training split, or its sample, has fewer).",
}


def summary(
    found: Survey, splice: Mapping[str, Any] | None, baselines: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of summary.json. ``about`` holds what is known beforehand, such as the hook and eval_is_train."""
    every, usual = found.all_rows, found.usual_rows
    fvu = every.fvu
    definitions = DEFINITIONS | (CE_DEFINITIONS if splice else {}) | BASELINE_DEFINITIONS
    return {
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


def _latent_numbers(latents: LatentSums) -> dict[str, Any]:
    return {
        "l0": latents.l0,
        "l0_percentiles": {str(percent): latents.l0_percentile(percent) for percent in _PERCENTILES},
        "dead_fraction": latents.dead_fraction,
        "dense_fraction": latents.dense_fraction,
        "density_histogram": {"edges": DENSITY_EDGES.tolist(), "counts": latents.density_histogram.tolist()},
    }
