"""Architectures describe themselves: what they say is true, is read without torch, and is all that a new one has to add."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.report.kinds import noun
from tasks.sae import SAEConfig, SparseAutoencoder, architectures, load, save
from tasks.sae.architectures import names
from tasks.sae.architectures.names import COMMON, NAMES, describe
from tasks.sae.architectures.registry import architecture
from tasks.train.config import TrainConfig
from tasks.train.finish import finished_weights
from tasks.train.loop import Run, train
from tasks.train.plan import plan
from tasks.train.train_state import initial_state
from tests.conftest import ROOT
from tests.train.test_loop import D_IN, SCALING, batches

CHANGED = {
    "k": 5,
    "k_start": 9,
    "aux_k": 1,
    "aux_coefficient": 0.5,
    "prefixes": (6, 24),
    "l1_coefficient": 0.3,
    "p_final": 0.7,
    "l0_coefficient": 0.2,
    "tanh_coefficient": 0.6,
    "tanh_scale": 2.0,
    "pre_act_coefficient": 0.01,
    "bandwidth": 0.9,
}


def trained(arch: str, **changes: object) -> Tensor:
    """The weights after 30 steps in which latents that were silent for one of them count as dead."""
    settings = {"tokens": 960, "batch_tokens": 32, "lanes": 4, "precision": "fp32", "lr": 0.01, "dead_after_tokens": 32}
    p = plan(SAEConfig(**{"arch": arch, "d_sae": 24, "k": 3} | changes), TrainConfig(**settings), D_IN)
    run = Run(initial_state(p, torch.cat(batches(p))[:256]))
    return train(run, batches(p), p, SCALING).state.parameters.flat


def test_every_setting_is_read_by_all_or_changed_below() -> None:
    assert {*CHANGED, *COMMON} == {field.name for field in fields(SAEConfig)}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("arch", NAMES)
def test_settings_that_an_architecture_does_not_name_move_none_of_its_weights(arch: str) -> None:
    unread = {name: value for name, value in CHANGED.items() if name not in describe(arch).settings}
    assert torch.equal(trained(arch), trained(arch, **unread))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("arch", "setting"), [(arch, setting) for arch in NAMES for setting in describe(arch).settings])
def test_settings_that_an_architecture_names_move_its_weights(arch: str, setting: str) -> None:
    assert not torch.equal(trained(arch), trained(arch, **{setting: CHANGED[setting]}))


@pytest.mark.parametrize("arch", NAMES)
def test_what_is_read_without_torch_is_what_the_class_says(arch: str) -> None:
    assert architecture(arch).description == describe(arch)


def test_descriptions_are_read_without_torch() -> None:
    asked = "[describe(name).k for name in NAMES], 'torch' in sys.modules"
    script = f"import sys; from tasks.sae.architectures.names import NAMES, describe; print({asked})"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == f"{[architecture(name).description.k for name in NAMES]} False\n"


def test_a_file_without_a_description_is_named() -> None:
    with pytest.raises(LookupError, match=r"jump\.py has no DESCRIPTION"):
        describe("jump")
    with pytest.raises(LookupError, match="no file of the architecture 'nothing'"):
        describe("nothing")


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One more architecture: its file, as if it lay beside the others, and its line in ``NAMES``."""
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(Path(__file__).with_name("added"))])
    monkeypatch.setattr(names, "NAMES", (*NAMES, "ridge"))
    yield "ridge"
    describe.cache_clear()
    architecture.cache_clear()
    sys.modules.pop("tasks.sae.architectures.ridge", None)


class Inputs:
    """Of a report's inputs what its words look at."""

    summary: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, arch: str) -> None:
        self.sae = {"arch": arch}


def test_a_new_architecture_is_one_file_and_one_line(added: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ridge: ReLU, with a penalty on squared codes"):
        SAEConfig(arch="no such")
    settings = TrainConfig(tokens=6400, batch_tokens=32, lanes=4, precision="fp32", lr=0.01)
    p = plan(SAEConfig(arch=added, d_sae=24, l1_coefficient=0.01), settings, D_IN)
    run = train(Run(initial_state(p, torch.cat(batches(p))[:256])), batches(p), p, SCALING)
    assert run.curve[-1].fvu < 0.5 * run.curve[0].fvu
    save(SparseAutoencoder(p.sae, finished_weights(p, run.state, SCALING)), str(tmp_path), {})
    sae, x = load(str(tmp_path)), batches(p)[-1]
    assert torch.allclose(sae.encode(x), (x @ sae.W_enc + sae.b_enc).relu(), atol=1e-6)
    assert float((sae(x) - x).square().sum() / x.square().sum()) < 0.5
    assert noun(Inputs(added)) == "Ridge autoencoder"
