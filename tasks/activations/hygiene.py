"""What a hook's recorded statistics foretell of training on it, in sentences for whoever is about to start that."""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.activations.reader import Split

logger = logging.getLogger(__name__)

Json = Mapping[str, Any]

# A direction that the mean is against by more deviations than this hardly ever has a positive pre-activation (1 in 30,000).
_DEVIATIONS_REACHED = 4.0
_DEAD_SHARE = 0.01
# SmolLM2-135M after layer 8: position 0 has 4.7 times the median norm, position 1 1.1 times.
_SINK_MULTIPLE = 3.0
# A guess: norms of kept rows whose root mean square is 1.5 medians have more than half of it from a few rows.
_RMS_MULTIPLE = 1.5
_STORAGE_ERROR = 0.01
_OUTLIER_SHARE = 0.05


def warn(uri: str, hook: str) -> None:
    """Log what speaks against training on a hook of stored activations.

    Raises:
        ArtifactError: the directory is unfinished, or has no such hook.
    """
    for warning in warnings_for(Split(uri, hook, "train").entry):
        logger.warning("%s: %s", hook, warning)


def warnings_for(entry: Mapping[str, Any]) -> list[str]:
    """One sentence, with a remedy, for each thing that speaks against training on a hook as it was harvested.

    Args:
        entry: the manifest's entry of the hook: its statistics and masked counts of the training rows are read.
    """
    statistics = entry["statistics"].get("train", {})
    masked = entry.get("masked", {}).get("train", {})
    if not statistics:
        return []
    found = (_mean(statistics), *_sinks(statistics, masked), _outliers(statistics, masked), _masked(statistics, masked))
    return [warning for warning in (*found, _storage(statistics, entry["dtype"])) if warning is not None]


def dead_at_start(gamma: float) -> float:
    """Share of randomly directed ReLU latents that are dead at the start on activations that are not centred.

    Of isotropic activations, a random direction's pre-activations have a mean of about gamma standard normals, counted in
    their own deviations; a latent is dead where that is below minus the largest deviation that is ever reached. That it is
    what kills latents is shown in https://arxiv.org/abs/2605.31518; the approximation is ours.
    """
    return 0.5 * math.erfc(_DEVIATIONS_REACHED / (gamma * math.sqrt(2))) if gamma > 0 else 0.0


def _mean(statistics: Json) -> str | None:
    gamma = statistics["gamma"]
    if gamma is None or dead_at_start(gamma) < _DEAD_SHARE:
        return None
    return (
        f"gamma = ||mean|| / deviation is {gamma:.1f}, with which about {dead_at_start(gamma):.0%} of latents start dead "
        "unless the mean is subtracted: saemill train does that, any other trainer of these activations must be told to."
    )


def _sinks(statistics: Json, masked: Json) -> Iterator[str]:
    positions, median = statistics.get("position_mean_norm") or [], statistics["median_norm"]
    tokens_each = (statistics["count"] + sum(masked.values())) / max(1, len(positions))
    for position, norm in enumerate(positions):
        dropped = position == 0 and masked.get("first_position", 0) > 0
        if dropped or not median or norm is None or norm <= _SINK_MULTIPLE * median:
            continue
        if masked.get("norm_outlier", 0) >= tokens_each:  # the tokens that make this position's norm are left out
            continue
        first = "set harvest.drop_first_position to true" if position == 0 else None
        remedy = first or f"set harvest.max_norm_multiple below {norm / median:.1f}"
        yield (
            f"Position {position} has a mean norm of {norm:.4g}, {norm / median:.1f} times the median, and is kept: such "
            f"attention sinks take latents and loss from everything else; {remedy} and harvest again."
        )


def _outliers(statistics: Json, masked: Json) -> str | None:
    root, median = math.sqrt(statistics["mean_square_norm"]), statistics["median_norm"]
    if not median or root <= _RMS_MULTIPLE * median:
        return None
    remedy = "set or lower harvest.max_norm_multiple and harvest again" if masked else "leave them out of the source"
    return (
        f"The root mean square norm of the kept rows is {root / median:.1f} times their median, so a few rows of very high "
        f"norm make most of the loss and leave latents dead; {remedy}."
    )


def _masked(statistics: Json, masked: Json) -> str | None:
    outliers, tokens = masked.get("norm_outlier", 0), statistics["count"] + sum(masked.values())
    if outliers <= _OUTLIER_SHARE * tokens:
        return None
    return (
        f"{outliers / tokens:.0%} of the tokens were left out as norm outliers, more than attention sinks are; raise "
        "harvest.max_norm_multiple and harvest again, unless the text is full of them."
    )


def _storage(statistics: Json, dtype: str) -> str | None:
    error = statistics.get("storage_error")
    if error is None or error <= _STORAGE_ERROR:
        return None
    better = "bfloat16" if dtype == "int8" else "float32"
    return (
        f"Storing in {dtype} lost {error:.1%} of the variance, which bounds how well any SAE can do; set the dtype of "
        f"harvest (or activations) to {better} and harvest again."
    )
