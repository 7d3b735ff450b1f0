"""``saemill.run``, beside a user's ``tasks.py``, and the notebook that walks through the API."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import saemill
from flows.api import running
from flows.config import load_config
from flows.pipeline import Result
from tests.conftest import ROOT
from tests.flows.api.conftest import python

NOTEBOOK = ROOT / "configs/notebook.ipynb"
TOY = ROOT / "configs/toy.yaml"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, str]]:
    """What would be run, which is not run."""
    found: list[tuple[Any, str]] = []
    result = Result(activations="a", sae="s", scores=None, report=None, summary={})
    monkeypatch.setattr(running, "run_in_process", lambda config, until: found.append((config, until)) or result)
    return found


def test_a_configuration_may_be_a_file_its_settings_or_one_that_was_loaded(seen: list[tuple[Any, str]]) -> None:
    expected = load_config(TOY, ["sae.d_sae=32", "name=mine"])
    changes = {"sae.d_sae": 32, "name": "mine"}
    saemill.run(TOY, settings=changes)
    saemill.run(str(TOY), settings=changes, until="train")
    saemill.run(load_config(TOY), settings=changes)
    saemill.run({"activations": {"source": "x.npy"}, "sae": {"k": 3}}, settings={"sae.arch": "topk"})
    assert [config for config, _ in seen[:3]] == [expected] * 3
    assert [until for _, until in seen] == ["report", "train", "report", "report"]
    assert (seen[3][0].sae.arch, seen[3][0].sae.k, seen[3][0].activations.source) == ("topk", 3, "x.npy")


def test_settings_that_are_given_are_left_as_they_are(seen: list[tuple[Any, str]]) -> None:
    given = {"activations": {"source": "x.npy"}}
    saemill.run(given, settings={"activations.eval_fraction": 0})
    assert given == {"activations": {"source": "x.npy"}}


def test_wrong_settings_are_told_as_on_the_command_line(seen: list[tuple[Any, str]]) -> None:
    with pytest.raises(saemill.InputError, match=r"Unknown setting 'sae\.kk'"):
        saemill.run(TOY, settings={"sae.kk": 3})
    with pytest.raises(saemill.InputError, match="No such configuration file"):
        saemill.run("nowhere.yaml")


@pytest.mark.ray
def test_rays_workers_run_our_packages_beside_a_users_tasks(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("raise ImportError('the user\\'s own')")
    settings = {"activations.source": str(ROOT / "configs/data/toy.parquet"), "storage": "runs", "train.tokens": 800}
    (tmp_path / "script.py").write_text(
        "import saemill\n"
        f"result = saemill.run({str(TOY)!r}, settings={settings!r})\n"
        "print(len(saemill.latents(result.scores)), saemill.load(result.sae).d_sae)\n"
    )
    assert python(tmp_path, "script.py").splitlines()[-1] == "16 16"


@pytest.mark.ray
def test_the_notebooks_cells_run_from_top_to_bottom(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path / "configs")
    names: dict[str, Any] = {}
    for cell in code_cells():
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)

    assert names["fvu"] < 0.5
    assert 0 < len(names["examples"]) <= 8
    assert names["again"].position == names["batches"].position == 1
    assert names["curve"].fvu.iloc[-1] < 0.5
    x = names["x"]
    assert torch.equal(saemill.load(tmp_path / "runs/own").encode(x), names["own"].encode(x))
    assert not torch.equal(names["after"], names["before"])


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_uses_all_of_the_api_and_keeps_no_output() -> None:
    source = "\n".join("".join(cell["source"]) for cell in code_cells())
    used = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    functions = {name for name in saemill.__all__ if name.islower()}
    assert functions <= used
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_cells())
