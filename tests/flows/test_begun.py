"""A run that goes on on machines for which ``auto`` comes to another precision begins anew, and says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.addresses import addresses
from flows.begun import begun_in_another_precision
from flows.config import PipelineConfig, parse_config
from flows.pipeline import run_pipeline
from flows.resolve import settled
from tasks.precision import Machine

GPU = Machine("a CPU", None, gpus=((9, 0), (9, 0)))
FAST, SLOW = Machine("a CPU", "AMX"), Machine("another CPU", None)


def harvesting(folder: Path, **train: Any) -> PipelineConfig:
    """Text through a model: both precisions are in the SAE's address."""
    (folder / "corpus.txt").write_text("four words of text")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text(json.dumps({"model_type": "llama"}))
    model = {"name": str(folder / "model")}
    text = {"source": str(folder / "corpus.txt")}
    return parse_config({"storage": str(folder / "runs"), "text": text, "model": model, "train": train})


def told(given: PipelineConfig, machine: Machine) -> str | None:
    config, _ = settled(given, [machine])
    return begun_in_another_precision(given, config, addresses(config))


def begin(given: PipelineConfig, machine: Machine) -> str:
    """Leave what a run that was killed on this machine leaves; where its SAE lies."""
    sae = addresses(settled(given, [machine])[0]).sae
    checkpoint = Path(sae, "checkpoints/step-000000000007/state.json")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("{}")
    return sae


def test_a_run_that_was_begun_on_other_machines_says_that_it_begins_anew(tmp_path: Path) -> None:
    given = harvesting(tmp_path)
    assert told(given, SLOW) is None, "nothing was begun"
    sae = begin(given, GPU)
    assert told(given, SLOW) == (
        "this run begins anew with model.dtype float32 and train.precision fp32. It was begun with model.dtype bfloat16 and "
        f"train.precision bf16, as {sae}; name these to go on with that."
    )
    assert told(given, GPU) is None, "it goes on"
    assert told(given, FAST) is None, "it goes on in the same precision"
    begin(given, SLOW)
    assert told(given, SLOW) is None, "this was begun too"


def test_what_was_named_came_out_as_it_does_now(tmp_path: Path) -> None:
    begin(harvesting(tmp_path), FAST)
    assert told(harvesting(tmp_path, precision="fp32"), SLOW) is None, "no run of these settings was begun"
    begin(harvesting(tmp_path, precision="fp32"), FAST)
    found = told(harvesting(tmp_path, precision="fp32"), SLOW)
    assert found is not None
    assert found.startswith("this run begins anew with model.dtype float32. It was begun with model.dtype bfloat16, as ")


def test_what_is_finished_in_another_precision_is_left_alone(tmp_path: Path) -> None:
    given = harvesting(tmp_path)
    Path(begin(given, FAST), "manifest.json").write_text("{}")
    assert told(given, SLOW) is None


def test_the_pipeline_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "rows.npy", np.eye(40, 4, dtype=np.float32))
    source = {"source": str(tmp_path / "rows.npy")}
    sizes: dict[str, Any] = {"sae": {"d_sae": 8, "k": 2}, "train": {"tokens": 64, "batch_tokens": 16, "workers": 1}}
    given = parse_config({"storage": str(tmp_path / "runs"), "activations": source, **sizes})
    sae = begin(given, FAST)
    monkeypatch.setattr("flows.resolve.machines_of", lambda _: [SLOW])
    calls: list[str] = []
    run_pipeline(given, lambda stage: calls.append(stage.name))
    assert calls == ["harvest", "train", "score", "report"]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [
        "precision: this run begins anew with train.precision fp32. It was begun with train.precision bf16, "
        f"as {sae}; name these to go on with that."
    ]
