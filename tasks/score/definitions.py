"""What each metric of the summary is, exactly, in a sentence; in the order in which these sentences build on one another."""

from collections.abc import Mapping
from typing import Any

from tasks.hook_roles import Kind

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
    "ce_recovered": "ce.recovered_vs_mean.",
    "ce.tokens": "Predicted tokens: all but the first of each sequence, in whole held-out sequences evenly spaced over the "
    "split, about score.splice_tokens in all.",
    "ce.original": "Mean cross-entropy of the model's prediction of these tokens, in nats; its weights are rounded to "
    "model.dtype, and multiplied in that precision where the scoring CPU does so fast, else in float32.",
    "ce.sae": "The same with x_hat in place of x at the hook, wherever the harvest keeps the activation; masked positions "
    "(first position, special tokens, norm outliers) go on with their own activation, here and in both ablations.",
    "ce.zero_ablation": "The same with zeros in place of x_hat.",
    "ce.mean_ablation": "The same with the mean of the training rows in place of x_hat.",
    "ce.delta_nats": "ce.sae - ce.original.",
    "ce.recovered_vs_zero": "(ce.zero_ablation - ce.sae) / (ce.zero_ablation - ce.original).",
    "ce.recovered_vs_mean": "(ce.mean_ablation - ce.sae) / (ce.mean_ablation - ce.original).",
    "ce.kl": "Mean KL divergence of the prediction with the SAE from the original prediction, KL(original || sae), in nats.",
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

TRANSCODER_DEFINITIONS = {
    "kind": "A transcoder rebuilds the activations of one hook from those of another. In all definitions here x are the "
    "rows of output_hooks, and x_hat is computed from the rows of input_hooks at the same tokens.",
    "input_hooks": "What is encoded.",
    "output_hooks": "What is rebuilt.",
    "d_out": "Features of what is rebuilt.",
}

TRANSCODER_OWN_WORDS = {
    "ce.sae": "The same with x_hat in place of x at the hook that is rebuilt, computed from what the same forward pass has "
    "at the input hook, wherever the harvest keeps the activation; masked positions (first position, special tokens, norm "
    "outliers) go on with their own activation, here and in both ablations.",
}

TRANSCODER_BASELINE_DEFINITIONS = {
    name: BASELINE_DEFINITIONS[name] for name in ("baselines.sae_same_rows.fvu", "baselines.mean.fvu")
} | {
    "baselines.linear.fvu": "fvu of the linear map with a constant from the input that has the least squared error on at "
    "most 100,000 training rows.",
    "baselines.linear_rank_k.fvu": "The same of the best such map of rank k (reduced-rank regression); k is that of the "
    "SAE, or its rounded l0.",
}

CROSSCODER_DEFINITIONS = {
    "kind": "A crosscoder rebuilds the activations of several hooks from those of all of them together. In all definitions "
    "here, the baselines' too, x are their rows side by side, each hook's times the root of its number of features over its "
    "variance in training, so that hooks weigh by their width.",
    "input_hooks": "What is encoded.",
    "output_hooks": "What is rebuilt.",
    "hooks": "Of each hook alone, unscaled: fvu, cosine, shrinkage and gamma as defined here, and decoder_norm_share, the "
    "mean over latents of the norm of their decoder at this hook over the sum of those at all hooks, scaled as x.",
}

CROSSCODER_OWN_WORDS = {
    "fvu_without_high_norm": "fvu of the rows whose norm is at most twice the recorded median norm of held-out rows at each "
    "hook, with those rows' own mean.",
    "high_norm_fraction": "Share of scored rows whose norm is above twice the recorded median norm of held-out rows at one "
    "hook or more.",
}


def definitions_for(kind: Kind, spliced: bool) -> dict[str, str]:
    """The definitions of all metrics in the summary of such an SAE."""
    losses = CE_DEFINITIONS if spliced else {}
    if kind == "transcoder":
        own = TRANSCODER_OWN_WORDS if spliced else {}
        return TRANSCODER_DEFINITIONS | DEFINITIONS | losses | TRANSCODER_BASELINE_DEFINITIONS | own
    if kind == "crosscoder":
        return CROSSCODER_DEFINITIONS | DEFINITIONS | losses | BASELINE_DEFINITIONS | CROSSCODER_OWN_WORDS
    return DEFINITIONS | losses | BASELINE_DEFINITIONS


def metrics(summary: Mapping[str, Any], definitions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each metric that is defined, in the order of the definitions: name, value in the summary and definition."""
    return [
        {"name": name, "value": _value(summary, name), "definition": definition} for name, definition in definitions.items()
    ]


def _value(summary: Mapping[str, Any], name: str) -> Any:
    """What stands under a name such as 'fvu' or 'ce.sae'; None where nothing does."""
    value: Any = summary
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
