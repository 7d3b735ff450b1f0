from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest

from tasks.planner.measured import Measured
from tasks.planner.needs import StageName, needs
from tasks.planner.processors import CPU, GPUS, H200
from tasks.planner.sizes import ModelSize, RunSize
from tasks.planner.speed import Speed, harvest_rate, of_accounts, of_card, of_probe
from tests.planner.demo import ACCOUNT, DEMO, KEYS, MODEL, SECONDS

MEASURED = Measured(
    at=0.0,
    seconds=18.0,
    processes=2,
    start_seconds=8.0,
    flop_per_second=1e11,
    step_seconds=0.11,
    product_flop_per_second=6e10,
    write_bytes_per_second=5e8,
    read_bytes_per_second=1e9,
)


def any_model(hooks: Sequence[str]) -> ModelSize | None:
    return MODEL if list(hooks) == ["model.layers.8"] else None


def seconds(speed: Speed, stage: StageName, size: RunSize = DEMO) -> float:
    return speed.seconds(needs(size, CPU)[stage].cost)


@pytest.mark.parametrize("stage", SECONDS)
def test_a_run_like_an_earlier_one_takes_as_long(stage: StageName) -> None:
    found = of_accounts([ACCOUNT], DEMO, KEYS, any_model)
    assert seconds(found[stage], stage) == pytest.approx(SECONDS[stage][0])


def test_half_the_training_takes_half_of_what_depended_on_its_length() -> None:
    half = replace(DEMO, training=replace(DEMO.training, tokens=499_712))  # 488 of 977 steps
    found = of_accounts([ACCOUNT], half, KEYS, any_model)["training"]
    all_of_it, fixed = SECONDS["training"]
    assert seconds(found, "training", half) == pytest.approx(fixed + (all_of_it - fixed) * 488 / 977)


def test_a_hook_twice_as_deep_takes_twice_as_long_to_reach() -> None:
    deeper = replace(DEMO, model=replace(MODEL, flop_to_hook=2 * MODEL.flop_to_hook))
    found = of_accounts([ACCOUNT], deeper, KEYS, any_model)["harvest"]
    all_of_it, fixed = SECONDS["harvest"]
    assert seconds(found, "harvest", deeper) == pytest.approx(fixed + 2 * (all_of_it - fixed))


def test_runs_on_other_machines_tell_nothing() -> None:
    others = KEYS | {"harvest": {"machine": "a fast one"}}
    assert set(of_accounts([ACCOUNT], DEMO, others, any_model)) == set(SECONDS) - {"harvest"}


def test_a_run_whose_models_work_is_not_known_tells_nothing_of_stages_that_run_it() -> None:
    found = of_accounts([replace(ACCOUNT, hooks=["model.layers.4"])], DEMO, KEYS, any_model)
    assert set(found) == {"text", "training", "report"}, "which do not run it"


def test_the_model_is_asked_for_only_where_a_stage_of_the_same_key_runs_it() -> None:
    def none(hooks: Sequence[str]) -> ModelSize | None:
        raise AssertionError(hooks)

    keys = KEYS | {stage: {"model": "another"} for stage in ("text", "harvest", "scoring")}
    assert set(of_accounts([ACCOUNT], DEMO, keys, none)) == {"training", "report"}


def test_of_several_runs_the_nearest_in_size_tells() -> None:
    small = replace(DEMO, training=replace(DEMO.training, tokens=10_240), model=None)
    slow = ACCOUNT.stages["training"]
    other = replace(ACCOUNT, at="later", size=small, stages={"training": replace(slow, seconds=500.0)})
    for order in ([other, ACCOUNT], [ACCOUNT, other]):
        assert of_accounts(order, DEMO, KEYS, any_model)["training"].source == "the run of 2026-11-27 15:54 here"


def test_a_probe_tells_how_long_its_own_configuration_takes() -> None:
    found = of_probe(MEASURED, DEMO)
    assert seconds(found["training"], "training") == pytest.approx(8 + 977 * 0.11)
    assert seconds(found["harvest"], "harvest") == pytest.approx(6 + 8 + 1171 * MODEL.flop_to_hook / 1e11)
    assert "text" not in found
    counted = of_probe(replace(MEASURED, tokenizer_seconds=3.0, token_seconds=1e-5), DEMO)["text"]
    assert seconds(counted, "text") == pytest.approx(3 + 1171 * 256 * 1e-5)


@pytest.mark.parametrize(
    ("measured", "size"),
    [(replace(MEASURED, flop_per_second=None), DEMO), (MEASURED, replace(DEMO, model=None))],
    ids=["not probed", "not counted"],
)
def test_a_probe_without_the_models_work_tells_nothing_of_stages_that_run_it(measured: Measured, size: RunSize) -> None:
    assert set(of_probe(measured, size)) == {"training", "report"}
    own = replace(DEMO, corpus=None, model=None)
    assert set(of_probe(replace(MEASURED, flop_per_second=None), own)) == {"harvest", "training", "scoring", "report"}


def test_a_probe_of_fewer_processes_counts_for_more() -> None:
    more = replace(DEMO, harvesters=8)
    assert of_probe(MEASURED, more)["harvest"].per_cost == of_probe(MEASURED, DEMO)["harvest"].per_cost / 4


def test_a_card_is_measured_at_the_model_that_is_nearest_in_size() -> None:
    assert harvest_rate(H200, 6e9) == 7.0e9 * 6.97e4 * 306 / 363
    assert "8B Llama" in harvest_rate(H200, 6e9).source
    assert "SmolLM2" in harvest_rate(H200, 1e8).source


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("size", [DEMO, replace(DEMO, corpus=None, model=None)], ids=["text", "own"])
def test_every_stage_on_a_card_says_what_it_rests_on(name: str, size: RunSize) -> None:
    speeds = of_card(GPUS[name], size)
    assert set(needs(size, GPUS[name])) <= set(speeds) <= set(get_args(StageName))
    assert all(speed.source and speed.per_cost > 0 for speed in speeds.values())
