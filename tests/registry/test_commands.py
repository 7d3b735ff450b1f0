"""The registry from the command line and from Python: what is printed, and that a reference is taken wherever an SAE is."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import saemill
from flows.addresses import Placed, addresses
from flows.config import PipelineConfig, parse_config
from flows.pipeline import run_pipeline
from flows.references import STORAGE
from tasks.activations.writer import Rows
from tasks.registry.registry import Registry
from tasks.registry.verdicts import VersionVerdict, store_verdict
from tasks.sae import SAEConfig, save
from tasks.sae.model import SparseAutoencoder
from tasks.sae.scaling import Weights
from tasks.storage.artifacts import identity, write_manifest
from tasks.storage.objects import open_store
from tests.flows.test_cli import exit_code
from tests.registry.stored import NOW, add, address, store_activations, store_sae, store_scores
from tests.stored import store_hooks

D_IN, D_SAE = 6, 24
Say = Callable[..., Any]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Give a command; what it prints."""

    def given(*arguments: str, code: int = 0) -> str:
        assert exit_code(*arguments) == code, capsys.readouterr().err
        told = capsys.readouterr()
        return told.out if code == 0 else told.err

    return given


@pytest.fixture
def ask(say: Say) -> Say:
    """Give a command; the JSON object that it prints."""
    return lambda *arguments: json.loads(say(*arguments, "--json"))


def store_weights(uri: str, seed: int) -> str:
    """An SAE of random weights."""
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (torch.randn(*shape, generator=generator) for shape in ((D_IN, D_SAE), (D_SAE, D_IN)))
    weights = Weights(encoder, torch.randn(D_SAE, generator=generator), decoder, torch.zeros(D_IN), {})
    save(SparseAutoencoder(SAEConfig(arch="topk", d_in=D_IN, d_sae=D_SAE, k=4), weights), uri, {"hook": "layer"})
    return uri


def store_rows(root: str) -> str:
    """Activations of one hook, 80 rows."""
    sequence, position = np.divmod(np.arange(80), 8)
    x = np.random.default_rng(0).normal(size=(80, D_IN)).astype(np.float32)
    rows = Rows(x, np.zeros(80, np.int32), sequence, position.astype(np.int32))
    return store_hooks(f"{root}/activations/x-{'e' * 12}", {"layer": ([rows], [rows])}, stage="activations")


def codes(out: str) -> list[bytes]:
    store = open_store(out)
    return [store.get(info.key) for info in store.list() if info.key.endswith(".parquet")]


def test_after_a_rollback_the_champion_gives_the_old_codes_to_the_bit(root: str, say: Say, ask: Say) -> None:
    rows = store_rows(root)
    for version in (1, 2):
        sae = store_weights(f"{root}/saes/toy-{version:012d}", seed=version)
        assert ask("registry", "add", "toy", sae, "--storage", root)["version"] == version
        assert ask("promote", f"toy@{version}", "--storage", root)["champion"] == version
        say("encode", "toy@champion", rows, "--out", f"{root}/codes-{version}", "--storage", root)
    started = time.process_time()
    back = ask("rollback", "toy", "--why", "worse", "--storage", root)
    assert time.process_time() - started < 2  # of a busy machine, only the work counts
    assert (back["champion"], back["before"], back["next"]) == (1, 2, None)
    say("encode", "toy@champion", rows, "--out", f"{root}/codes-again", "--storage", root)
    assert codes(f"{root}/codes-again") == codes(f"{root}/codes-1") != codes(f"{root}/codes-2")
    moves = ask("registry", "history", "toy", "--storage", root)["moves"]
    assert [(move["action"], move["version"], move["why"]) for move in moves] == [
        ("promote", 1, ""),
        ("promote", 2, ""),
        ("rollback", 1, "worse"),
    ]


def test_a_reference_is_taken_wherever_an_sae_is(
    folder: str, say: Say, ask: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sae = store_weights(f"{folder}/saes/toy-{1:012d}", seed=1)
    say("registry", "add", "toy", sae, "--storage", folder)
    monkeypatch.setenv(STORAGE, folder)
    assert torch.equal(saemill.load("toy@1").W_dec, saemill.load(sae).W_dec)
    assert torch.equal(saemill.load("toy@1", storage=folder).W_dec, saemill.load(sae).W_dec)
    exported = ask("export", "toy@1", "--format", "saelens", "--out", str(tmp_path / "out"))
    assert exported["d_sae"] == D_SAE
    for arguments in (["score", "toy@2", "x"], ["report", "toy@2", "x", "y"], ["encode", "toy@2", "x", "--out", "y"]):
        assert "toy has no version 2" in say(*arguments, code=2)
    monkeypatch.setenv(STORAGE, str(tmp_path / "elsewhere"))
    with pytest.raises(saemill.InputError, match="There is no registry 'toy'"):
        saemill.load("toy@1")


@pytest.fixture
def toy(folder: str) -> Registry:
    """Versions a and b, with scores; their storage is the environment's."""
    registry = Registry.at(folder, "toy")
    for name in ("a", "b"):
        sae = store_sae(folder, name)
        add(registry, sae, scores=store_scores(folder, sae))
    return registry


def test_registries_are_listed_with_figures_aliases_and_tags(toy: Registry, say: Say, ask: Say) -> None:
    at = ["--storage", toy.root]
    assert ask("registry", "list", "--storage", f"{toy.root}-none") == {"registries": []}
    assert say("registry", "list", "--storage", f"{toy.root}-none") == "no registries\n"
    say("promote", "toy@1", *at)
    assert say("registry", "tag", "toy@champion", "keep", *at) == "toy@1: keep\n"
    (found,) = ask("registry", "list", *at)["registries"]
    assert found == ask("registry", "list", "toy", *at)["registries"][0]
    assert (found["name"], found["aliases"], found["storage"]) == ("toy", {"champion": 1}, toy.root)
    assert [(entry["version"], entry["tags"], entry["uri"]) for entry in found["versions"]] == [
        (1, ["keep"], address(toy.root, "saes", "a")),
        (2, [], address(toy.root, "saes", "b")),
    ]
    first, second = say("registry", "list", "toy", *at).splitlines()
    assert "champion, keep" in first
    assert "fvu 0.1, l0 5" in second
    assert say("registry", "tag", "toy@1", "keep", "--remove", *at) == "toy@1: no tags\n"
    assert "Did you mean toy?" in say("registry", "list", "tou", *at, code=2)


def test_a_version_is_shown_with_its_verdict(toy: Registry, say: Say, ask: Say) -> None:
    at = ["--storage", toy.root]
    assert ask("registry", "show", "toy", *at)["version"] == 2, "without a champion, the newest"
    say("promote", "toy@1", *at)
    found = ask("registry", "show", "toy", *at)
    assert (found["version"], found["aliases"], found["verdict"]) == (1, ["champion"], None)
    store_verdict(toy.root, VersionVerdict(name="toy", version=2, against=1, verdict="HOLD"), NOW)
    assert ask("registry", "show", "toy@2", *at)["verdict"]["verdict"] == "HOLD"
    lines = say("registry", "show", "toy@2", *at).splitlines()
    assert any(line.startswith("verdict") and "HOLD against version 1" in line for line in lines)
    assert "is no version; expected was NAME@3" in say("promote", "toy", *at, code=2)


def test_a_promotion_can_be_tried_first_and_a_rejected_one_needs_force(toy: Registry, say: Say, ask: Say) -> None:
    at = ["--storage", toy.root]
    assert (
        say("promote", "toy@1", "--dry-run", *at) == "toy@1 would be the champion (verdict none); before, no version was\n"
    )
    assert toy.moves("champion").numbers() == []
    say("promote", "toy@1", *at)
    assert say("promote", "toy@1", *at) == "toy@1 is the champion already\n"
    store_verdict(toy.root, VersionVerdict(name="toy", version=2, against=1, verdict="REJECT"), NOW)
    for options in ([], ["--dry-run"]):
        assert say("promote", "toy@2", *options, *at, code=2).count("\n") == 1
    assert ask("promote", "toy@2", "--force", "--why", "a paper needs it", *at)["forced"]
    assert "forced against a verdict of REJECT" in say("registry", "history", "toy", *at)
    assert "toy@1 is the champion again; before, version 2 was; there is no promotion further back" in say(
        "rollback", "toy", *at
    )
    assert say("rollback", "toy", "--to", "1", *at).startswith("toy@1 is the champion already")
    assert say("rollback", "toy", *at, code=2).startswith("saemill: toy@champion is version 1, and there was no promotion")


def test_what_a_registry_no_longer_needs_is_told_and_removed(folder: str, say: Say, ask: Say) -> None:
    registry = Registry.at(folder, "toy")
    for name in ("a", "b"):
        store_activations(folder, f"rows-{name}")
        add(registry, store_sae(folder, name, f"rows-{name}"))
    command = ["gc", "--registry", "toy", "--storage", folder, "--keep-versions", "1"]
    told = ask(*command, "--dry-run")
    assert [entry["uri"] for entry in told["removed"]] == [
        address(folder, "saes", "a"),
        address(folder, "activations", "rows-a"),
    ]
    assert say(*command).splitlines()[-2] == f"removed 2 directories, {told['bytes']:,} bytes"
    assert ask(*command)["removed"] == []
    assert [
        entry["present"] for entry in ask("registry", "list", "toy", "--storage", folder)["registries"][0]["versions"]
    ] == [
        False,
        True,
    ]
    assert "removed" in say("registry", "list", "toy", "--storage", folder).splitlines()[0]
    assert "The SAE of toy@1 is gone" in say("promote", "toy@1", "--storage", folder, code=2)
    assert "Give one of two" in say("gc", code=2)
    assert "gc: keep_versions is 0 but must be at least 1" in say("gc", "--registry", "toy", "--keep-versions", "0", code=2)
    assert "Give one of two" in say("gc", folder, "--registry", "toy", code=2)


def test_gc_takes_name_storage_and_rules_from_a_configuration(
    folder: str, ask: Say, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.at(folder, "toy")
    for name in "abc":
        add(registry, store_sae(folder, name))
    monkeypatch.delenv(STORAGE, raising=False)
    file = tmp_path / "toy.yaml"
    settings = "registry: {name: toy, keep_versions: 2}"
    file.write_text(f"storage: {folder}\nactivations: {{source: rows.npy}}\n{settings}\n")
    told = [ask("gc", "--config", str(file), "--dry-run", *more) for more in ([], ["--keep-versions", "1"])]
    assert [len(found["removed"]) for found in told] == [1, 2]
    file.write_text("activations: {source: rows.npy}\n")
    assert "registry.name is empty in" in say("gc", "--config", str(file), code=2)


def test_a_run_registers_its_sae_once_and_makes_it_the_challenger(folder: str, tmp_path: Path) -> None:
    config, versions = _own(tmp_path, folder), []
    at = addresses(config)
    sae = store_sae(folder, "a")
    for info in open_store(sae).list():
        open_store(at.sae).put(info.key, open_store(sae).get(info.key))
    for _ in range(2):
        versions.append(run_pipeline(config, _finished).version)
    assert versions == ["toy@1", "toy@1"]
    registry = Registry.at(folder, "toy")
    assert [registry.uri_of(version) for _, version in registry.versions.all()] == [at.sae]
    assert registry.moves("challenger").numbers() == [1]
    assert run_pipeline(config, _finished).as_json()["version"] == "toy@1"
    assert run_pipeline(config, _finished, until="train").version is None
    unnamed = config.model_copy(update={"registry": type(config.registry)()})
    assert "version" not in run_pipeline(unnamed, _finished).as_json()
    assert addresses(unnamed) == at


def _own(tmp_path: Path, folder: str) -> PipelineConfig:
    np.save(tmp_path / "four.npy", np.eye(20, 4, dtype=np.float32))
    own = {"activations": {"source": str(tmp_path / "four.npy")}, "registry": {"name": "toy"}}
    return parse_config({"storage": folder, "train": {"workers": 1}, **own})


def _finished(stage: Placed) -> None:
    """Stages are not run: what the test stores is their result."""
    if stage.result == "scores" and not stage.finished:
        open_store(stage.out).put("summary.json", b'{"fvu": 0.5}')
        write_manifest(stage.out, {"stage": "scores", "sae": identity(vars(stage.stage)["sae"])})
