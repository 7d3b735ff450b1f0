import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.report import overview, provenance
from tasks.report.inputs import Inputs, read_inputs
from tests.composed import about
from tests.report.stages import SUMMARY, Stages


@pytest.fixture(scope="module")
def inputs(stages: Stages) -> Inputs:
    return read_inputs(stages.tokens, stages.activations, stages.sae, stages.scores)


def test_metrics_come_in_the_order_in_which_their_definitions_build_on_one_another() -> None:
    by_name = json.loads(json.dumps(SUMMARY, sort_keys=True))
    by_name["definitions"]["a_new_one"] = "Not known to the report."
    rows = overview.metrics(by_name)
    assert [row.name for row in rows][:3] == ["fvu", "l0", "l0_percentiles"]
    assert rows[-1] == overview.Metric("a_new_one", "\N{EN DASH}", "Not known to the report.")
    assert {row.name: row.value for row in rows}["ce.delta_nats"] == "0.128"


def test_listed_metrics_are_shown_as_they_are_listed() -> None:
    listed = [
        {"name": "l0", "value": 31.97, "definition": "First."},
        {"name": "a_new_one", "value": [1, 2], "definition": "Not known to the report."},
        {"name": "fvu", "value": None, "definition": "Last."},
    ]
    rows = overview.metrics({**SUMMARY, "metrics": listed})
    assert [(row.name, row.value, row.definition) for row in rows] == [
        ("l0", "32.0", "First."),
        ("a_new_one", "1, 2", "Not known to the report."),
        ("fvu", "\N{EN DASH}", "Last."),
    ]


def test_key_figures_say_what_is_there_and_leave_out_what_is_not(inputs: Inputs) -> None:
    named = {card.name: card for card in overview.cards(inputs)}
    assert named["FVU"].note == "90.9 % of variance explained"
    assert named["CE recovered"].value == "95.7 %"
    assert named["Harvest"].value == "7.43k"
    bare = replace(inputs, summary={**SUMMARY, "ce": None, "fvu": None}, runs={stage: {} for stage in inputs.runs})
    assert [card.name for card in overview.cards(bare)] == ["FVU", "L0", "Dead latents", "Dense latents"]
    assert overview.ce_rows(bare.summary) == []


def test_masks_tell_how_many_tokens_of_each_split_they_took(inputs: Inputs) -> None:
    rows = provenance.mask_rows(inputs.activations["hooks"]["model.layers.8"])
    assert [row[:3] for row in rows] == [
        ("First position of each sequence", "3,930 (0.391 %)", "437 (0.391 %)"),
        ("Special tokens", "210 (0.0209 %)", "23 (0.0206 %)"),
        ("Norm outliers", "47 (0.00468 %)", "5 (0.00447 %)"),
        ("Kept", "1,001,000 (99.6 %)", "111,300 (99.6 %)"),
    ]


def test_settings_are_shown_as_yaml_that_loads_again(stages: Stages, tmp_path: Path) -> None:
    from flows.config import load_config

    (tmp_path / "config.yaml").write_text(provenance.settings_yaml(about(stages.config).shown))
    assert load_config(tmp_path / "config.yaml") == stages.config
