"""``saemill score`` and ``saemill report`` of SAEs by their URIs, imported ones and our own, without a configuration."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.config import parse_config
from tasks.activations.multi_hook import open_split
from tasks.activations.writer import Rows
from tasks.hook_roles import ENTRY, HookRoles
from tasks.interchange.formats import FormatName, open_format
from tasks.interchange.portable import Belonging, Portable
from tasks.progress import silent
from tasks.sae import SAEConfig, save
from tasks.sae.scaling import Weights
from tasks.storage.objects import open_store
from tests.composed import ingest
from tests.flows.test_cli import exit_code
from tests.stored import store_hooks

D_IN, D_SAE, K, ROWS = 6, 24, 4, 300
Say = Callable[..., dict[str, Any]]


@pytest.fixture
def activations(tmp_path: Path) -> str:
    """Own activations of 300 rows, some of them held out, below a root."""
    np.save(tmp_path / "rows.npy", 3 + np.random.default_rng(0).normal(size=(ROWS, D_IN)).astype(np.float32))
    source = {"source": str(tmp_path / "rows.npy"), "eval_fraction": 0.3}
    uri = f"{tmp_path}/runs/activations/x-{'d' * 12}"
    ingest(parse_config({"storage": str(tmp_path), "activations": source}), uri, silent)
    return uri


def portable(arch: str = "topk") -> Portable:
    """An SAE of random weights that knows its hook by another library's name."""
    generator = torch.Generator().manual_seed(1)
    encoder, decoder = (torch.randn(*shape, generator=generator) for shape in ((D_IN, D_SAE), (D_SAE, D_IN)))
    weights = Weights(encoder, torch.randn(D_SAE, generator=generator), decoder / 4, torch.full((D_IN,), 2.0), {})
    belongs = Belonging(model="some/model", hooks=("model.layers.3",))
    return Portable(SAEConfig(arch=arch, d_in=D_IN, d_sae=D_SAE, k=K), weights, belongs)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Give a command; the JSON object that it prints."""

    def given(*arguments: str) -> dict[str, Any]:
        assert exit_code(*arguments, "--json") == 0, capsys.readouterr().err
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return given


def written(name: FormatName, folder: Path) -> Portable:
    """A folder as another library keeps an SAE."""
    sae = portable()
    for key, data in open_format(name).files(sae).items():
        open_store(str(folder)).put(key, data)
    return sae


@pytest.mark.ray
@pytest.mark.parametrize("name", ["saelens", "sparsify", "dictionary_learning"])
def test_an_imported_sae_is_scored_and_reported_without_a_configuration(
    name: FormatName, say: Say, activations: str, tmp_path: Path, ray_cluster: None
) -> None:
    theirs = written(name, tmp_path / "theirs").module()
    sae = f"{tmp_path}/imported"
    say("import", str(tmp_path / "theirs"), "--format", name, "--out", sae)
    scores = say("score", sae, activations, "--set", "score.neighbours=2")
    assert scores["scores"].startswith(f"{tmp_path}/runs/scores/imported-")

    held_out = open_split(activations, ["source"], "eval")
    assert len(held_out.shards) == 1
    x = held_out.shard(0).activation.astype(np.float64)
    codes = theirs.encode(torch.from_numpy(x).float())
    x_hat = theirs.decode(codes).detach().double().numpy()
    fvu = np.square(x - x_hat).sum() / np.square(x - x.mean(axis=0)).sum()
    assert scores["summary"]["fvu"] == pytest.approx(fvu, rel=1e-6)
    assert scores["summary"]["l0"] == pytest.approx(float((codes > 0).sum(dim=1).double().mean()), rel=1e-6)
    assert scores["summary"]["hook"] == "source"

    report = say("report", sae, activations, scores["scores"], "--set", "report.title=Theirs")
    page = Path(report["report"], "index.html").read_text()
    assert "<h1>Theirs</h1>" in page or "Theirs" in page
    assert "imported from" in page
    assert "neighbours: 2" in page

    assert say("score", sae, activations, "--set", "score.neighbours=2") == scores, "finished earlier"
    assert say("score", sae, activations)["scores"] != scores["scores"]


@pytest.fixture
def two_hooks(tmp_path: Path) -> str:
    """Activations of two hooks of one width."""
    rng, rows = np.random.default_rng(0), {}
    for hook in ("early", "late"):
        sequence, position = np.divmod(np.arange(80), 8)
        made = Rows(
            rng.normal(size=(80, D_IN)).astype(np.float32), np.zeros(80, np.int32), sequence, position.astype(np.int32)
        )
        rows[hook] = ([made], [made])
    return store_hooks(f"{tmp_path}/activations/x-{'e' * 12}", rows, stage="activations", model={"name": "some/model"})


def test_which_of_several_hooks_it_reads_has_to_be_said_of_an_sae_that_does_not_say(
    two_hooks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(portable().module(), f"{tmp_path}/sae", {"hook": "blocks.3.hook_resid_post"})
    assert exit_code("score", f"{tmp_path}/sae", two_hooks) == 2
    assert "has early, late. Say which of them it reads with --hook" in capsys.readouterr().err
    assert exit_code("score", f"{tmp_path}/sae", two_hooks, "--hook", "nowhere") == 2
    assert "has no hook 'nowhere'; it has early, late." in capsys.readouterr().err
    assert exit_code("score", f"{tmp_path}/sae", two_hooks, "--target-hook", "late") == 2
    assert "--hook must say what is read" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


@pytest.mark.ray
def test_an_sae_of_ours_is_scored_at_the_hook_that_it_says_or_that_is_said(
    two_hooks: str, tmp_path: Path, say: Say, ray_cluster: None
) -> None:
    save(portable().module(), f"{tmp_path}/sae", {ENTRY: HookRoles.of_sae("late").to_json()})
    late, early = say("score", f"{tmp_path}/sae", two_hooks), say("score", f"{tmp_path}/sae", two_hooks, "--hook", "early")
    assert (late["summary"]["hook"], early["summary"]["hook"]) == ("late", "early")
    assert late["scores"] != early["scores"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["score", "SAE", "ACTS", "--set", "sae.k=3"], "--set sae changes nothing of an SAE that is there"),
        (["score", "SAE", "ACTS", "--set", "score.k=3"], "Unknown setting 'score.k'"),
        (["score", "SAE", "ACTS", "--set", "score.neighbours=0"], "score.neighbours is 0 but must be at least 1"),
        (["score", "nowhere", "ACTS"], "There is no SAE at"),
        (["score", "SAE", "nowhere"], "has no manifest.json"),
        (["report", "SAE", "ACTS"], "SCORES_URI is missing"),
        (["report", "SAE", "ACTS", "nowhere"], "has no manifest.json"),
        (["score", "configs/demo.yaml", "--tokens", "x"], "--tokens is for an SAE that is given by its URI"),
        (["report", "configs/demo.yaml", "--out", "x"], "--out is for an SAE that is given by its URI"),
    ],
)
def test_what_is_given_wrong_is_told_in_a_sentence(
    arguments: list[str],
    sentence: str,
    activations: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    save(portable().module(), f"{tmp_path}/sae", {})
    named = {"SAE": f"{tmp_path}/sae", "ACTS": activations}
    assert exit_code(*(named.get(part, part) for part in arguments)) == 2
    assert sentence in capsys.readouterr().err
