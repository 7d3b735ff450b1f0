"""A stage that refuses its input ends the run, at once and with its own words."""

from typing import Any

import pytest
from prefect.states import Failed

from flows.on_prefect import run_stage, run_step
from tasks.errors import ArtifactError, InputError
from tests.flows.conftest import Served
from tests.sampled import every_case


@pytest.mark.parametrize("task", [run_stage, run_step], ids=["stage", "step"])
def test_only_what_may_go_better_is_tried_again(task: Any) -> None:
    again = task.retry_condition_fn
    assert again is not None
    assert [bool(again(task, None, Failed(data=error))) for error in (InputError("x"), ArtifactError("x"), OSError())] == [
        *(False, True, True)
    ]
    assert task.retries == 2


@pytest.mark.prefect
@pytest.mark.ray
@pytest.mark.skipif(not every_case(), reason="a whole flow run; with make test-all")
def test_the_next_stage_does_not_begin(served: Served) -> None:
    run = served.start_run("pipeline", {"configuration": "demo", "overrides": "text.column=nothing"})
    state = served.wait_until_ended(run)
    assert state["type"] == "FAILED"
    assert "has no column 'nothing', which text.column names" in state["message"]
    tried = served.call("POST", "task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert [(one["name"], one["run_count"]) for one in tried] == [("tokenize", 1)]
