from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import saemill
from tasks.sae.mesh import OneProcess
from tasks.train.curve import CurveRow
from tasks.train.worker import Worker
from tests.composed import run_settings
from tests.flows.api.conftest import python
from tests.train.conftest import make_run

SETTINGS: dict[str, Any] = {"d_sae": 24, "k": 3, "tokens": 1280, "batch_tokens": 32, "precision": "fp32", "lr": 0.01}


@pytest.fixture(autouse=True)
def _quick(unchecked: None) -> None:
    """Shapes are checked by tests of the maths."""


@pytest.fixture
def rows() -> np.ndarray:
    """600 rows in 6 dimensions that are sparse sums of 12 directions."""
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(600, 12)) * (rng.random((600, 12)) < 0.2)
    return (codes @ rng.normal(size=(12, 6)) + 3).astype(np.float32)


@pytest.mark.parametrize("arch", ["batchtopk", "l1"])
def test_stored_activations_give_the_weights_of_a_run_of_the_pipeline(arch: str, tmp_path: Path) -> None:
    config, activations = make_run(tmp_path, lanes=16, sae={"arch": arch})
    worker = Worker(run_settings(config), activations, str(tmp_path / "sae"), OneProcess())
    run = worker.train()
    worker.finish(run)
    expected = saemill.load(tmp_path / "sae")

    heard = list[CurveRow]()
    sae, curve = saemill.train(activations, arch=arch, on_row=heard.append, **SETTINGS)
    assert all(torch.equal(sae.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())
    assert sae.belonging.hooks == ("source",)
    assert curve.to_dict("records") == [vars_of(row) for row in run.curve] == [vars_of(row) for row in heard]


def vars_of(row: CurveRow) -> dict[str, float]:
    return {name: getattr(row, name) for name in row.__slots__}  # type: ignore[attr-defined]


def test_batches_of_ones_own_choice_are_trained_on(tmp_path: Path) -> None:
    _, uri = make_run(tmp_path)
    few = {name: value for name, value in SETTINGS.items() if name != "batch_tokens"}
    batches = saemill.activations(uri, batch_size=32, seed=5)
    sae = saemill.train(batches, **few).sae
    expected = saemill.train(uri, **SETTINGS, seed=5).sae
    assert torch.equal(sae.W_dec, expected.W_dec)
    assert not torch.equal(sae.W_dec, saemill.train(uri, **SETTINGS).sae.W_dec)


@pytest.mark.parametrize("arch", ["topk", "jumprelu"])
@pytest.mark.parametrize("as_given", [np.asarray, torch.tensor, np.ndarray.tolist], ids=["numpy", "torch", "list"])
def test_rows_in_memory_are_trained_on_and_come_out_again(arch: str, as_given: Any, rows: np.ndarray) -> None:
    longer = SETTINGS | {"tokens": 12_800}
    sae, curve = saemill.train(as_given(rows), arch=arch, **longer)
    x = torch.tensor(rows)
    fvu = float((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum())
    assert max(fvu, curve.fvu.iloc[-1]) < 0.7 * curve.fvu.iloc[0]
    assert curve.tokens.iloc[-1] == 12_800
    assert not sae.W_enc.requires_grad


def test_the_same_call_gives_the_same_bits_and_another_seed_other_ones(rows: np.ndarray) -> None:
    first, second = (saemill.train(rows, **SETTINGS).sae for _ in range(2))
    assert torch.equal(first.W_enc, second.W_enc)
    assert not torch.equal(first.W_enc, saemill.train(rows, seed=1, **SETTINGS).sae.W_enc)


def test_every_row_is_seen_once_per_epoch() -> None:
    from flows.api.training_rows import InMemory
    from tasks.train.config import TrainConfig

    config = TrainConfig(tokens=64, batch_tokens=4, lanes=1, workers=1)
    batches = InMemory(np.arange(20.0).reshape(10, 2), config, "cpu").batches(0, 5)
    seen = torch.cat([batch[:, 0] for batch in batches]).int().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(0, 20, 2))
    assert seen[:10] != seen[10:]
    resumed = InMemory(np.arange(20.0).reshape(10, 2), config, "cpu").batches(2, 3)
    assert torch.cat([batch[:, 0] for batch in resumed]).int().tolist() == seen[8:]


def test_arrays_that_are_no_rows_are_refused() -> None:
    for given, told in (
        (np.zeros(3), r"array of shape \[3\]; expected were rows of numbers \[n, d_in\]"),
        (np.zeros((0, 3)), r"shape \[0, 3\]"),
        (np.array([["a"]]), "no array of numbers"),
        (np.array([[0, 1], [np.nan, 1]]), "Row 1 of the activations is not finite"),
    ):
        with pytest.raises(saemill.InputError, match=told):
            saemill.train(given, **SETTINGS)


def test_settings_are_checked_by_name_and_value(rows: np.ndarray) -> None:
    for settings, told in (
        ({"learning_rate": 1}, "no setting 'learning_rate'"),
        ({"workers": 2}, "no setting 'workers'"),
        ({"lr": -1.0}, "train.lr"),
        ({"arch": "tpk"}, "'tpk' but must be one of topk"),
        ({"arch": "topk", "k": 99}, r"sae\.k is 99 but must lie in 1\.\.24"),
        ({"tokens": 8}, "at least one batch"),
    ):
        with pytest.raises(saemill.InputError, match=told):
            saemill.train(rows, **SETTINGS | settings)


def test_held_out_rows_are_no_training_rows(tmp_path: Path) -> None:
    _, uri = make_run(tmp_path)
    with pytest.raises(saemill.InputError, match="held out"):
        saemill.train(saemill.activations(uri, split="eval", batch_size=8), **SETTINGS)


def test_training_needs_neither_ray_nor_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("raise ImportError('the user\\'s own')")
    (tmp_path / "script.py").write_text(
        "import sys, numpy, saemill\n"
        "rows = numpy.random.default_rng(0).normal(size=(64, 4))\n"
        "sae, curve = saemill.train(rows, arch='topk', d_sae=8, k=2, tokens=64, batch_tokens=16)\n"
        "saemill.save(sae, 'sae')\n"
        "values, latents = saemill.load('sae').encode_sparse(sae.W_dec)\n"
        "print(tuple(values.shape), len(curve), sorted({'ray', 'prefect', 'transformers'} & {*sys.modules}))\n"
    )
    assert python(tmp_path, "script.py") == "(8, 2) 4 []"
