"""``saemill gate`` on SAEs that were trained: sabotage is rejected, chance is not, and what is asked wrongly is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.config import parse_config
from tasks.progress import silent
from tasks.sae import SparseAutoencoder, load, save
from tasks.sae.content import content_of
from tasks.sae.mesh import OneProcess
from tasks.sae.scaling import Weights
from tasks.train.finish import close
from tasks.train.run_settings import RunSettings
from tasks.train.worker import Worker
from tests.composed import ingest, run_settings
from tests.conftest import shapes_unchecked
from tests.flows.test_cli import exit_code

D_IN, ROWS = 16, 4000
Say = Callable[..., tuple[object, dict[str, Any]]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Activations, a champion, two repeats of it with other seeds, and one that has half its k; all really trained."""
    folder = tmp_path_factory.mktemp("gates")
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(ROWS, 40)) * (rng.random((ROWS, 40)) < 0.1)
    np.save(folder / "rows.npy", (codes @ rng.normal(size=(40, D_IN)) + 3).astype(np.float32))
    ingest(parse_config(settings(folder)), str(rows(folder)), silent)
    with shapes_unchecked():
        for name, changed in {"champion": {}, "seed-1": {"seed": 1}, "seed-2": {"seed": 2}, "seed-3": {"seed": 3}}.items():
            trained(folder, name, train=changed)
        trained(folder, "half-k", sae={"k": 2})
        trained(folder, "warm", train={"init_from": str(folder / "saes/champion")})
    return folder


def rows(folder: Path) -> Path:
    return folder / f"activations/x-{'0' * 12}"


def settings(folder: Path, sae: dict[str, Any] | None = None, train: dict[str, Any] | None = None) -> dict[str, Any]:
    usual = {"tokens": 12_800, "batch_tokens": 128, "lanes": 4, "workers": 1, "precision": "fp32", "lr": 0.01}
    return {
        "storage": str(folder),
        "activations": {"source": str(folder / "rows.npy"), "eval_fraction": 0.3},
        "sae": {"d_sae": 48, "k": 4, **(sae or {})},
        "train": usual | (train or {}),
    }


def trained(folder: Path, name: str, **changed: Any) -> None:
    out, activations = str(folder / "saes" / name), str(rows(folder))
    config: RunSettings = run_settings(parse_config(settings(folder, **changed)))
    if config.train.init_from is not None:
        config = replace(config, init_content=content_of(config.train.init_from))
    worker = Worker(config, activations, out, OneProcess())
    close(config, activations, out, worker.finish(worker.train()), {})


@pytest.fixture
def say(root: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """``saemill gate CHAMPION CHALLENGER`` of SAEs by their names here; its exit code and answer."""

    def given(champion: str, challenger: str, *options: str) -> tuple[object, dict[str, Any]]:
        uris = [str(root / "saes" / name) for name in (champion, challenger)]
        code = exit_code("gate", *uris, "--activations", str(rows(root)), "--json", *options)
        return code, json.loads(capsys.readouterr().out)

    return given


def repeats(root: Path) -> list[str]:
    return [part for name in ("seed-1", "seed-2", "seed-3") for part in ("--repeat", str(root / "saes" / name))]


def sabotaged(root: Path, name: str, change: Callable[[Weights], Weights]) -> str:
    sae = load(str(root / "saes/champion"))
    roles = {"hook_roles": {"inputs": ["source"], "outputs": ["source"]}}
    save(SparseAutoencoder(sae.config, change(sae.weights)), str(root / "saes" / name), roles)
    return name


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    return {gate["metric"]: gate["outcome"] for gate in answer["gates"]}


def test_a_champion_against_itself_is_held(say: Say, root: Path) -> None:
    shutil.copytree(root / "saes/champion", root / "saes/copy", dirs_exist_ok=True)
    code, answer = say("champion", "copy")
    assert (code, answer["verdict"]) == (0, "HOLD")
    assert answer["reason"] == "Nothing to gain: the champion is as good on these rows."
    assert answer["champion"] == answer["challenger"]
    assert outcomes(answer)["ce_recovered"] == "not measured"
    assert json.loads(Path(answer["ledger"]).read_text())["verdict"] == "HOLD"
    assert Path(answer["ledger"]).parent == root / "gates"


def test_another_seed_is_not_rejected_where_noise_was_measured(say: Say, root: Path) -> None:
    code, answer = say("seed-1", "champion", *repeats(root)[2:])
    assert code == 0
    assert {gate["sigma_from"] for gate in answer["gates"] if gate["sigma"] is not None} == {"repeats"}


@pytest.mark.parametrize("how", ["half-k", "bias", "shuffled"])
def test_sabotage_is_rejected_for_all_the_noise_of_seeds(how: str, say: Say, root: Path) -> None:
    if how == "bias":
        sabotaged(root, how, lambda weights: replace(weights, b_enc=torch.zeros_like(weights.b_enc)))
    if how == "shuffled":
        sabotaged(root, how, lambda weights: replace(weights, W_dec=weights.W_dec.detach().flip(0)))
    code, answer = say("champion", how, *repeats(root))
    assert (code, answer["verdict"]) == (1, "REJECT")
    assert "loss" in (outcomes(answer)["fvu"], outcomes(answer)["l0_error"])


def test_what_is_left_of_the_champion_counts_only_where_it_was_begun_from(say: Say) -> None:
    _, answer = say("champion", "warm")
    (shared,) = (gate for gate in answer["gates"] if gate["metric"] == "shared")
    assert shared["outcome"] == "tie"
    assert 0.6 <= shared["challenger"] <= 1
    assert outcomes(say("champion", "seed-1")[1])["shared"] == "not measured"


def test_it_tells_the_gates_as_a_table_and_the_ledger_last(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saes = [str(root / "saes" / name) for name in ("champion", "half-k")]
    out = str(root / "ledgers")
    assert exit_code("gate", *saes, "--activations", str(rows(root)), "--out", out) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("gate")
    assert lines[-2].startswith("REJECT: It is worse by fvu")
    assert lines[-1].startswith(out)


def test_rules_of_one_s_own_decide(say: Say) -> None:
    code, answer = say("champion", "half-k", "--set", "gates.rules=[{metric: never_firing, kind: floor, tolerance: 1}]")
    assert (code, answer["verdict"], list(outcomes(answer))) == (0, "HOLD", ["never_firing"])


@pytest.mark.parametrize(
    "options, told",
    [
        (["nowhere"], "There is no SAE at "),
        (["champion", "--set", "sae.k=3"], "--set sae changes nothing of an SAE that is there"),
        (["champion", "--set", "gates.rows=5"], "has held-out rows of 5 sequences, but 8 are the least"),
        (["narrow"], "has d_in 6 and d_out 6, but"),
    ],
)
def test_what_cannot_be_gated_is_refused_in_a_sentence(
    options: list[str], told: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    champion = load(str(root / "saes/champion"))
    narrow = Weights(champion.W_enc[:6], champion.b_enc, champion.W_dec[:, :6], champion.b_dec[:6], champion.weights.extra)
    save(SparseAutoencoder(champion.config, narrow), str(root / "saes/narrow"), {"hook": "source"})
    first, *rest = options
    saes = [str(root / "saes" / name) for name in ("champion", first)]
    assert exit_code("gate", *saes, "--activations", str(rows(root)), *rest) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
