import re
from typing import Any

import numpy as np
import pytest

from tasks.activations.hygiene import dead_at_start, warnings_for

KEPT = {"first_position": 0, "padding": 0, "special": 0, "norm_outlier": 0}
DROPPED = {**KEPT, "first_position": 1_000}


def entry(masked: dict[str, int] = DROPPED, dtype: str = "bfloat16", **statistics: Any) -> dict[str, Any]:
    """SmolLM2-135M after layer 8 in 1,000 sequences of 4 tokens, unless told otherwise."""
    usual = {
        "count": 4_000 - sum(masked.values()),
        "mean_square_norm": 16_300.0,
        "gamma": 0.95,
        "median_norm": 127.0,
        "position_mean_norm": [602.0, 140.0, 127.0, 127.0],
        "storage_error": 1e-5,
    }
    return {"dtype": dtype, "masked": {"train": masked}, "statistics": {"train": usual | statistics}}


def only_warning(found: dict[str, Any]) -> str:
    (warning,) = warnings_for(found)
    assert warning.endswith(".")
    return warning


def test_a_usual_harvest_gives_no_warning() -> None:
    assert warnings_for(entry()) == []


def test_activations_without_positions_masks_or_spread_give_no_warning() -> None:
    assert warnings_for(entry({}, position_mean_norm=None, gamma=None, storage_error=None)) == []
    assert warnings_for(entry({}, position_mean_norm=None, median_norm=0.0, mean_square_norm=0.0)) == []
    assert warnings_for({"dtype": "int8", "statistics": {}}) == []


def test_a_large_mean_is_told_with_the_share_of_latents_that_it_kills() -> None:
    assert re.search(r"gamma .* is 15.0, with which about 39% of latents start dead unless", only_warning(entry(gamma=15.0)))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 4.0, 15.0])
def test_the_predicted_share_is_that_of_random_directions_on_gaussian_activations(gamma: float) -> None:
    rng, d_in, rows = np.random.default_rng(0), 64, 20_000
    mean = np.full(d_in, gamma)  # the deviation of d_in unit normals is sqrt(d_in), the mean's norm gamma times that
    directions = rng.normal(size=(2_000, d_in))
    largest = ((rng.normal(size=(rows, d_in)) + mean) @ directions.T).max(axis=0)
    assert dead_at_start(gamma) == pytest.approx((largest <= 0).mean(), abs=0.03)


def test_a_kept_first_position_that_is_a_sink_is_told() -> None:
    warning = only_warning(entry(KEPT))
    assert "Position 0 has a mean norm of 602, 4.7 times the median, and is kept" in warning
    assert "set harvest.drop_first_position to true" in warning


def test_a_later_position_that_is_a_sink_is_told_unless_the_norm_rule_took_it() -> None:
    norms = [602.0, 140.0, 1_270.0, 127.0]
    assert "set harvest.max_norm_multiple below 10.0" in only_warning(entry(position_mean_norm=norms))
    taken = entry({**DROPPED, "norm_outlier": 1_000}, position_mean_norm=norms)
    assert not any("Position" in warning for warning in warnings_for(taken))


def test_a_few_kept_rows_of_very_high_norm_are_told() -> None:
    high: dict[str, Any] = {"mean_square_norm": (3 * 127.0) ** 2}
    assert "3.0 times their median" in (warning := only_warning(entry(**high)))
    assert "harvest.max_norm_multiple" in warning
    assert "leave them out of the source" in only_warning(entry({}, position_mean_norm=None, **high))


def test_a_norm_rule_that_takes_much_of_the_text_is_told() -> None:
    assert "10% of the tokens were left out as norm outliers" in only_warning(entry({**DROPPED, "norm_outlier": 400}))


def test_a_precision_that_loses_much_of_the_variance_is_told() -> None:
    assert "Storing in int8 lost 2.0% of the variance" in only_warning(entry(dtype="int8", storage_error=0.02))
