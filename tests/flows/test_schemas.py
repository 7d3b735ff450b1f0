"""What Prefect is told of runs that the command line starts, and what it is told of their results."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema

from flows.nightly import is_stale
from flows.on_prefect import recorded_pipeline, recorded_sweep, summary_table
from flows.pipeline import Result

NOW = datetime(2026, 3, 1, 2, 17, tzinfo=UTC)


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every setting of every group, by name."""
    for group in schema["definitions"].values():
        yield from group["properties"].items()


def test_every_setting_has_its_own_name_as_title_a_description_and_a_kind() -> None:
    found = list(properties(parameter_schema(recorded_pipeline).model_dump()))
    assert len(found) > 50
    for name, field in found:
        assert field["title"] == name
        assert field.get("description") or "$ref" in field or "allOf" in field, f"{name} is not described"
        # What has no kind would get a raw JSON editor.
        assert field.keys() & {"type", "enum", "anyOf", "$ref", "allOf"}, f"{name} has no kind"


def test_what_the_command_line_starts_is_recorded_with_all_settings() -> None:
    assert list(parameter_schema(recorded_pipeline).properties) == ["config", "until"]
    assert list(parameter_schema(recorded_sweep).properties) == ["config"]


def test_the_lists_of_a_sweep_are_lists() -> None:
    found = parameter_schema(recorded_sweep).definitions["SweepConfig"]["properties"]
    assert {name: field["type"] for name, field in found.items()} == dict.fromkeys(found, "array")
    assert list(found) == ["archs", "d_sae", "k", "l1_coefficient", "lr", "seeds"]
    assert found["lr"]["items"]["type"] == "number"


@pytest.mark.parametrize("hours_late, stale", [(0, False), (5.9, False), (6.1, True), (72, True)])
def test_a_run_is_stale_when_it_is_later_than_allowed(hours_late: float, stale: bool) -> None:
    assert is_stale(NOW - timedelta(hours=hours_late), NOW, hours=6) == stale


def test_a_run_without_a_schedule_is_never_stale() -> None:
    assert not is_stale(None, NOW, hours=0)


def test_the_summary_shows_figures_baselines_rates_and_a_link() -> None:
    summary = {
        "fvu": 0.0987654,
        "dead_fraction": 0.0,
        "ce_recovered": None,
        "baselines": {"pca": {"fvu": 0.25}},
        "tokens_per_second": {"harvest": 12345.6, "training": None},
    }
    result = Result(activations="/r/a", sae="/r/s", scores="/r/c", report="/r/reports/x y", summary=summary)
    table = summary_table(result)
    assert "[Open the report](file:///r/reports/x%20y/index.html)" in table
    assert "| fvu | 0.09877 |" in table
    assert "* sae: `/r/s`" in table
    assert "tokens: `" not in table
    assert "| ce_recovered | - |" in table
    assert "| fvu on the baselines' rows: pca | 0.25 |" in table
    assert "| harvest tokens/s | 12,346 |" in table
