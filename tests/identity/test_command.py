"""``saemill match`` on stored SAEs and activations, as a user gives it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tasks.activations.writer import Rows
from tasks.sae import SparseAutoencoder, load, save
from tasks.storage.local import LocalStore
from tests.flows.test_cli import exit_code
from tests.identity.planted import D_SAE, K, built, dictionary, normal, reborn, rows_of, shuffled
from tests.identity.test_permute import Killed, contents, dying
from tests.stored import store_hooks

HOOK = "model.layers.8"
Given = dict[str, str]
Say = Callable[..., dict[str, Any]]


def rows(x: np.ndarray) -> Rows:
    places = np.arange(len(x))
    return Rows(x, (places % 50).astype(np.int32), places // 10, (places % 10).astype(np.int32))


def put(sae: SparseAutoencoder, uri: str, hook: str = HOOK) -> str:
    save(sae, uri, {"hook": hook, "hook_roles": {"inputs": [hook], "outputs": [hook]}, "model": "some/model"})
    return uri


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Activations, and three versions of an SAE, of which each keeps all latents but ten; not to be changed."""
    root = tmp_path_factory.mktemp("runs")
    first = dictionary()
    order = shuffled(D_SAE)[: D_SAE - 10]
    second = reborn(first, order, cosine=0.99, born=10, seed=3)
    third = reborn(second, shuffled(D_SAE, seed=1)[: D_SAE - 10], cosine=0.99, born=10, seed=6)
    held_out = [rows(rows_of(first, 2_000)), rows(rows_of(first, 1_500, seed=1))]
    hooks = {name: ([rows(rows_of(first, 100))], held_out) for name in (HOOK, "model.layers.9")}
    activations = f"{root}/activations/demo-{'d' * 12}"
    return {
        "root": str(root),
        "activations": store_hooks(activations, hooks, row_group_rows=512, stage="activations"),
        "first": put(first, f"{root}/saes/demo-{'1' * 12}"),
        "second": put(second, f"{root}/saes/demo-{'2' * 12}"),
        "third": put(third, f"{root}/saes/demo-{'3' * 12}"),
        "elsewhere": put(first, f"{root}/saes/other", hook="model.layers.9"),
        "narrow": put(dictionary(d_in=32), f"{root}/saes/narrow"),
    }


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], given: Given) -> Say:
    """Match two of the SAEs; the JSON object that is printed."""

    def said(a: str, b: str, *options: str) -> dict[str, Any]:
        arguments = ("match", a, b, "--activations", given["activations"], *options, "--json")
        assert exit_code(*arguments) == 0, capsys.readouterr().err
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return said


def test_a_match_tells_shares_table_and_page_and_is_not_made_twice(say: Say, given: Given) -> None:
    found = say(given["first"], given["second"], "--ceiling", given["third"])
    assert (found["same"] + found["drifted"], found["died"], found["born"]) == (0.95, 0.05, 0.05)
    assert (found["split"], found["merged"], found["rows"], found["row_split"]) == (0, 0, 3_500, "eval")
    assert 0 < found["null"] < 0.6 < found["cosine"]
    assert found["ceiling"]["died"] == pytest.approx(0.1, abs=0.01)
    folder = Path(found["table"]).parent
    assert folder.parent == Path(given["root"]) / "matches"
    assert folder.name.startswith("demo-")
    table = pq.read_table(found["table"])
    assert table["version"].value_counts().to_pylist() == [
        {"values": 1, "counts": D_SAE},
        {"values": 2, "counts": D_SAE + 10},
    ]
    assert table["stable_id"][0].as_py() == "demo.1.0"
    before = contents_below(folder)
    assert say(given["first"], given["second"], "--ceiling", given["third"]) == found
    assert contents_below(folder) == before
    manifest = json.loads(before["manifest.json"])
    assert manifest["files"].keys() | {"match.json", "manifest.json"} == before.keys()


def contents_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ids_go_on_through_a_permuted_copy_with_notes_and_the_copy_is_an_sae(say: Say, given: Given, tmp_path: Path) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text("stable_id,text\n" + "".join(f"demo.1.{n},latent {n}\n" for n in range(D_SAE)))
    copy = f"{tmp_path}/copy"
    first = say(given["first"], given["second"], "--permute-out", copy, "--carry", str(notes))
    assert first["carried"]["kept"] == D_SAE - 10 == first["permuted"]["at_their_places"]
    assert first["carried"]["dropped"] == 10
    assert (first["permuted"]["codes_differing"], first["permuted"]["elsewhere"]) == (0, 0)
    ids = [row for row in pq.read_table(first["table"]).to_pylist() if row["version"] == 2 and row["index"] is not None]
    assert all(row["stable_id"] == f"demo.1.{row['index']}" for row in ids if row["class"] in ("same", "drifted"))
    x = torch.from_numpy(rows_of(load(given["first"]), 50))
    was, now = load(given["second"]).encode(x), load(copy).encode(x)
    assert torch.equal(was.sort(dim=1).values, now.sort(dim=1).values)

    folder = Path(first["table"]).parent
    second = say(copy, given["third"], "--previous", str(folder), "--carry", str(folder / "carried.csv"))
    assert second["versions"] == [2, 3]
    table = pq.read_table(second["table"]).to_pylist()
    assert {row["version"] for row in table} == {1, 2, 3}
    last = [row for row in table if row["version"] == 3 and row["index"] is not None]
    assert [row["index"] for row in last] == list(range(D_SAE))
    from_birth = [row for row in last if row["stable_id"].startswith("demo.1.")]
    assert len(from_birth) == second["carried"]["kept"]
    assert D_SAE - 20 <= len(from_birth) < D_SAE - 10


def test_what_is_printed_ends_with_the_page(given: Given, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ("match", given["first"], given["second"], "--activations", given["activations"], "--out", f"{tmp_path}/out")
    assert exit_code(*arguments, "--rows", "1000", "--name", "mine") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("of A's latents: same ")
    assert lines[2].endswith("1,000 rows")
    assert lines[-1] == f"{tmp_path}/out/index.html"
    assert pq.read_table(tmp_path / "out/identity.parquet")["stable_id"][0].as_py() == "mine.1.0"


def refusals(given: Given, tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """Names of cases, with arguments that are refused and what is said."""
    first, second = given["first"], given["second"]
    (tmp_path / "notes.csv").write_text("id\n1\n")
    return {
        "other hooks": ([first, given["elsewhere"]], "latents of different hooks are not compared"),
        "other width": ([first, given["narrow"]], "takes rows of 32 features"),
        "no SAE": ([first, f"{tmp_path}/nothing"], "There is no SAE at"),
        "other match": ([first, second, "--previous", given["activations"]], "is no identity table"),
        "no table": ([first, second, "--carry", f"{tmp_path}/notes.csv"], "a column stable_id of text"),
        "odd name": ([first, second, "--name", "a b"], "letters, digits"),
        "backwards": ([first, second, "--version", "1"], "must be above 1"),
        "target alone": ([first, second, "--target-hook", HOOK], "--hook must say what is read"),
        "unknown hook": ([first, second, "--hook", "nowhere"], "has no hook 'nowhere'"),
        "taken": ([first, second, "--out", second], "holds other things"),
        "taken copy": ([first, second, "--permute-out", second], "holds other things"),
    }


def test_what_does_not_fit_is_refused_in_a_sentence_before_anything_is_written(
    given: Given, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for name, (arguments, expected) in refusals(given, tmp_path).items():
        place = () if "--out" in arguments else ("--out", str(out))
        assert exit_code("match", *arguments, "--activations", given["activations"], *place) == 2, name
        said = capsys.readouterr().err
        assert expected in " ".join(said.split()), name
        assert "Traceback" not in said
        assert not out.exists(), name


def test_a_match_that_ends_with_another_sae_is_no_line_of_this_one(
    say: Say, given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(Path(say(given["first"], given["second"])["table"]).parent)
    arguments = ("match", given["third"], given["second"], "--activations", given["activations"], "--previous", folder)
    assert exit_code(*arguments) == 2
    assert "which ends with another SAE" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("writes", [0, 2, 4, 6, 9])
def test_a_kill_at_a_write_leaves_nothing_that_the_same_command_does_not_finish(
    writes: int, given: Given, say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a, b = given["first"], given["second"]
    options = ("--rows", "500", "--permute-out", f"{tmp_path}/copy", "--out", f"{tmp_path}/out")
    left = [writes]
    with monkeypatch.context() as patched:
        for name in ("put", "put_if_absent"):
            patched.setattr(LocalStore, name, dying(name, left))
        with pytest.raises(Killed):
            say(a, b, *options)
    assert not (tmp_path / "out/manifest.json").exists()
    say(a, b, *options)
    got = contents_below(tmp_path / "out"), contents(tmp_path / "copy")
    for folder in ("out", "copy"):
        (tmp_path / folder).rename(tmp_path / f"{folder}-killed")
    say(a, b, *options)
    assert got == (contents_below(tmp_path / "out"), contents(tmp_path / "copy"))


def test_dense_codes_are_compared_over_fewer_rows_and_that_is_told(
    given: Given, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tasks.identity.sources._MOST_ENTRIES", 1_200 * K)
    arguments = ("match", given["first"], given["second"], "--activations", given["activations"], "--out", f"{tmp_path}/out")
    assert exit_code(*arguments, "--json") == 0
    said = capsys.readouterr()
    assert 1_024 <= json.loads(said.out)["rows"] <= 1_400
    assert "are not sparse; comparing" in " ".join(said.err.split())


def test_a_crosscoder_is_matched_over_its_hooks_side_by_side(given: Given, say: Say, tmp_path: Path) -> None:
    W_dec = normal(40, 128, seed=1)
    sae = built(W_dec.T.contiguous() / 128, W_dec)
    order = shuffled(40)
    hooks = {"inputs": [HOOK, "model.layers.9"], "outputs": [HOOK, "model.layers.9"]}
    for name, one in (("a", sae), ("b", built(sae.W_enc[:, order].contiguous(), sae.W_dec[order]))):
        save(one, f"{tmp_path}/{name}", {"hooks": hooks["inputs"], "hook_roles": hooks})
    found = say(f"{tmp_path}/a", f"{tmp_path}/b", "--out", f"{tmp_path}/out")
    assert found["same"] == 1
