from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from flows.addresses import Placed, addresses
from flows.config import PipelineConfig, parse_config
from flows.pipeline import LAST_STAGE, result, run_pipeline
from flows.stages import stage_names, stages
from tasks.errors import InputError
from tasks.progress import Listener, silent
from tasks.stage import Recipe, Stage
from tasks.storage.artifacts import to_json, write_manifest
from tasks.storage.objects import open_store

MAIN = {"tokenize": "tokens", "harvest": "activations", "train": "sae", "score": "scores", "report": "report"}
"""Stages in order, and what their results are called; there may be others between them."""
OF_OWN = [name for name in stage_names() if name != "tokenize"]
"""Those of a run on activations of the user's own."""


@pytest.fixture
def own(tmp_path: Path) -> PipelineConfig:
    """A configuration on twenty activations of the user's own."""
    np.save(tmp_path / "four.npy", np.eye(20, 4, dtype=np.float32))
    return parse_config({"storage": str(tmp_path / "runs"), "activations": {"source": str(tmp_path / "four.npy")}})


def finish(uri: str, **objects: dict[str, object]) -> None:
    for name, content in objects.items():
        open_store(uri).put(f"{name}.json", to_json(content))
    write_manifest(uri, {})


def test_text_is_tokenized_and_harvested_before_training() -> None:
    config = parse_config({"text": {"source": "x.txt"}})
    found = [(stage.name, stage.result) for stage in stages(config)]
    assert [pair for pair in found if pair[0] in MAIN] == [*MAIN.items()]
    assert stage_names()[-1] == LAST_STAGE


def test_own_activations_take_the_place_of_text_and_harvest(own: PipelineConfig) -> None:
    assert [stage.name for stage in stages(own)] == OF_OWN
    assert OF_OWN[0] == "harvest"


@pytest.mark.parametrize("until", OF_OWN)
def test_the_stages_up_to_the_one_asked_for_are_called_in_order(own: PipelineConfig, until: str) -> None:
    called: list[str] = []

    def call(stage: Placed) -> None:
        called.append(stage.name)

    run_pipeline(own, call, until)
    assert called == OF_OWN[: OF_OWN.index(until) + 1]


def test_a_stage_that_the_run_does_not_have_is_refused_with_those_that_it_has(own: PipelineConfig) -> None:
    with pytest.raises(InputError, match=rf"no stage .tokenize.\. Its stages are {', '.join(OF_OWN)}\."):
        run_pipeline(own, lambda stage: None, "tokenize")


def test_what_is_not_finished_is_not_in_the_result(own: PipelineConfig) -> None:
    at = addresses(own)
    finish(at.activations, run={"tokens_per_second": 250.5})
    open_store(at.sae).put("curve.parquet", b"unfinished")
    found = result(own, at)
    assert (found.tokens, found.activations, found.sae) == (None, at.activations, None)
    assert found.summary == {"tokens_per_second": {"harvest": 250.5, "training": None}}


def test_the_summary_is_the_scores_with_the_rates_of_harvest_and_training(own: PipelineConfig) -> None:
    at = addresses(own)
    finish(at.activations, run={"tokens_per_second": None})
    finish(at.sae, run={"tokens_per_second": 9.0})
    finish(at.scores, summary={"fvu": 0.1, "baselines": {}})
    assert result(own, at).summary == {
        "fvu": 0.1,
        "baselines": {},
        "tokens_per_second": {"harvest": None, "training": 9.0},
    }


@dataclass(frozen=True)
class Raising(Stage, name="train", result="sae", folder="saes", version=1):
    """A stage whose work ends in a SystemError with a cause."""

    cause: BaseException

    def recipe(self) -> Recipe:
        return Recipe({})

    def run(self, out: str, listener: Listener) -> None:
        raise SystemError("returned a result with an exception set") from self.cause


def test_what_a_signal_raises_while_ray_waits_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Placed(Raising(cause=KeyboardInterrupt()), str(tmp_path)).run(silent)


def test_a_system_error_of_another_kind_stays_one(tmp_path: Path) -> None:
    with pytest.raises(SystemError, match="with an exception set"):
        Placed(Raising(cause=ValueError()), str(tmp_path)).run(silent)
