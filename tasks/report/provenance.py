"""Where the numbers come from: tokens left out, the statistics of the activations, times, settings, addresses."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from tasks.activations.manifest import SAMPLED
from tasks.report.inputs import Inputs
from tasks.report.numbers import compact, duration, number, percent

Json = dict[str, Any]
Rows = list[tuple[str, str, str]]
"""Name, value, remark."""

MASKS = {
    "first_position": ("First position of each sequence", "an attention sink, whose norm is many times the others'"),
    "padding": ("Padding", "fills sequences, and stands for no text"),
    "special": ("Special tokens", "separators, BOS and EOS carry no text"),
    "norm_outlier": ("Norm outliers", "beyond harvest.max_norm_multiple times the median norm, at any hook"),
}
STAGES = {"tokens": "Tokens", "activations": "Activations", "sae": "Training", "scores": "Scores"}


def corpus_rows(tokens: Json | None) -> Rows:
    """Documents, sequences and tokens of the two splits: name, train, held out."""
    if tokens is None:
        return []
    names = {
        "n_documents": "Documents",
        "n_sequences": "Sequences",
        "n_tokens": "Tokens",
        "dropped_tail_tokens": "Dropped at the end",
    }
    return [
        (name, number(tokens[key].get("train")), number(tokens[key].get("eval")))
        for key, name in names.items()
        if tokens.get(key)
    ]


def packing(tokens: Json | None) -> str:
    """How documents became sequences."""
    if tokens is None:
        return ""
    cut = ", cut at text.max_tokens" if tokens.get("truncated_by_max_tokens") else ""
    return f"Documents packed without padding into sequences of {number(tokens.get('context_length'))} tokens{cut}."


def sample(activations: Json) -> str:
    """Of which training rows figures are, where most were deleted when they had been trained on; else nothing."""
    found = activations.get(SAMPLED, {}).get("train")
    if not found:
        return ""
    return (
        f"Training rows were deleted when they had been trained on. Figures of them are of a sample that stayed: "
        f"{number(found['kept'])} of {number(found['of'])} shards."
    )


def mask_rows(hook: Json) -> list[tuple[str, str, str, str]]:
    """Rows of activations that each rule left out and that were kept: name, train, held out, why."""
    masked, splits = hook.get("masked") or {}, hook["splits"]
    totals = {split: splits[split]["rows"] + sum((masked.get(split) or {}).values()) for split in ("train", "eval")}
    rules = dict.fromkeys([*MASKS, *(rule for counts in masked.values() for rule in counts)])
    rows = []
    for rule in rules:
        if not any(rule in counts for counts in masked.values()):
            continue
        name, why = MASKS.get(rule, (rule, ""))
        train, held_out = (_part(masked.get(split, {}).get(rule, 0), totals[split]) for split in ("train", "eval"))
        rows.append((name, train, held_out, why))
    kept = [_part(splits[split]["rows"], totals[split]) for split in ("train", "eval")]
    return [*rows, ("Kept", kept[0], kept[1], "")]


def norm_rows(hook: Json, summary: Json) -> Rows:
    """Statistics of the training activations, and what few rows of high norm do to the FVU."""
    statistics: Json = (hook.get("statistics") or {}).get("train") or {}
    square = statistics.get("mean_square_norm")
    found = [
        ("Root mean square norm", None if square is None else math.sqrt(square), "sqrt of the mean of ‖x‖²"),
        ("Median norm", statistics.get("median_norm"), ""),
        (
            "\N{GREEK SMALL LETTER GAMMA} = ‖mean‖ / rms deviation",
            statistics.get("gamma"),
            "the larger, the more an SAE gains from centring",
        ),
        ("Variance", statistics.get("variance"), "mean of ‖x \N{MINUS SIGN} mean‖², summed over features"),
        ("Lost in storage", statistics.get("storage_error"), "share of the variance, by rounding to the stored precision"),
        ("FVU, all rows", summary.get("fvu"), ""),
        ("FVU without high-norm rows", summary.get("fvu_without_high_norm"), "few rows can carry much of the variance"),
    ]
    rows = [(name, number(value), remark) for name, value, remark in found if value is not None]
    if summary.get("high_norm_fraction") is not None:
        rows.append(("High-norm rows", percent(summary["high_norm_fraction"]), "share of the scored rows"))
    return rows


def mixing_rows(shuffle: Json | None) -> Rows:
    """How well training batches were mixed."""
    if shuffle is None or shuffle.get("ratio") is None:
        return []
    source = shuffle["source"]
    near = shuffle["batch_autocorrelation"][0]
    rows = [
        (
            f"Pairs of rows in a batch from one {source}",
            percent(shuffle["collision_rate"]),
            f"{percent(shuffle['ideal'])} in a uniform shuffle, a ratio of {number(shuffle['ratio'])}",
        )
    ]
    if near is not None:
        remark = "0 in a uniform shuffle"
        rows.append((f"Autocorrelation of {source}s between neighbouring batches", number(near), remark))
    return rows


def time_rows(inputs: Inputs) -> Rows:
    """Wall time and rate of each stage, as it was when the stage ran."""
    rows = []
    for stage, run in inputs.runs.items():
        rate = run.get("tokens_per_second")
        rows.append(
            (STAGES[stage], duration(run.get("seconds")), f"{compact(rate)} {inputs.unit}s per second" if rate else "")
        )
    return rows


def settings_yaml(settings: Mapping[str, Any]) -> str:
    """The resolved settings, in the form that `saemill run` takes."""
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=100)


def _part(count: int, total: int) -> str:
    return f"{number(count)} ({percent(count / total if total else None)})"
