"""Folders that are built from stored scores: whole after any kill, the same every time, refused where inputs do not fit."""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tasks.errors import ArtifactError, InputError
from tasks.interchange import circuit_tracer, saelens, sparsify
from tasks.publish import build as building
from tasks.publish.checked import require_whole
from tasks.publish.dashboards import dashboards
from tasks.publish.neuronpedia import rules
from tasks.publish.scored import read_scored
from tasks.report.contexts import StoredContexts
from tasks.report.details import chunks
from tasks.report.inputs import read_inputs
from tasks.sae import load
from tasks.storage.artifacts import to_json
from tasks.storage.local import LocalStore
from tasks.storage.objects import open_store
from tasks.token_strings import TokenStrings
from tests.flows.test_cli import exit_code
from tests.publish.conftest import DEAD, HOSTILE, N_LATENTS, REPO, Build, Inputs, tree, write_sae
from tests.sampled import sampled
from tests.test_token_strings import byte_level

ALL = ["hf", "neuronpedia", "saelens-yaml"]
EXPORT = "neuronpedia/export/tiny-model/8-tiny-saes"


def features(folder: str) -> list[dict[str, Any]]:
    """All that the calls would send."""
    found = []
    for path in sorted(Path(folder, "neuronpedia/calls").rglob("*.gz")):
        found += json.loads(gzip.decompress(path.read_bytes()))["features"]
    return found


def exported(folder: str, kind: str) -> list[dict[str, Any]]:
    """Rows as Neuronpedia's importer takes them: the columns are the first line's, others are lost."""
    rows: list[dict[str, Any]] = []
    for path in sorted(Path(folder, EXPORT, kind).glob("*.gz")):
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        columns = lines[0].keys()
        rows += [{name: line[name] for name in columns} for line in lines]
        assert all(line.keys() == columns for line in lines)
    return rows


def test_the_same_command_finds_the_folder_built(make: Build) -> None:
    first = make(ALL, license="mit")
    before = tree(Path(first.uri))
    again = make(ALL, license="mit")
    assert (first.earlier, again.earlier) == (False, True)
    assert tree(Path(again.uri)) == before
    assert (again.files, again.bytes, again.latents) == (first.files, first.bytes, {"tiny-model/8-tiny-saes": 119})


class _Killed(BaseException):
    """The process is gone: nothing may catch it."""


@pytest.mark.parametrize("share", sampled([0, 0.3, 0.6, 0.99]))
def test_a_build_that_was_killed_is_finished_by_the_same_command_with_the_same_bytes(
    share: float, make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tree(Path(make(ALL).uri))
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/publish.json").write_bytes(whole["publish.json"])
    left, real = int(share * (len(whole) - 2)), LocalStore.put

    def put(store: LocalStore, key: str, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Killed
        real(store, key, data)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "put", put)
        with pytest.raises(_Killed):
            make(ALL, out=f"{tmp_path}/killed")
    with pytest.raises(ArtifactError, match="unfinished"):
        require_whole(f"{tmp_path}/killed")
    make(ALL, out=f"{tmp_path}/killed")
    assert tree(tmp_path / "killed") == whole


def test_pages_have_the_values_of_the_report(make: Build, inputs: Inputs) -> None:
    """100 random latents: numbers to the report's four digits, tokens and order as they are."""
    stored = read_inputs(None, inputs.activations, inputs.sae, inputs.scores)
    report: dict[str, Any] = {}
    for _, chunk in chunks(stored.latents, StoredContexts(stored.examples, N_LATENTS), None):
        report |= {latent: (panel, chunk["strings"]) for latent, panel in chunk["latents"].items()}
    table = stored.latents.to_pylist()
    by_index = {each["index"]: each for each in features(make(["neuronpedia"]).uri)}
    asked = [int(n) for n in np.random.default_rng(0).choice(N_LATENTS, 100, replace=False) if n not in (DEAD, HOSTILE)]
    for latent in asked:
        found, (panel, strings) = by_index[latent], report[str(latent)]
        contexts = panel["contexts"]
        texts = [[strings[i] for i in tokens] for tokens in contexts["tokens"]]
        assert [each["tokens"] for each in found["activations"]] == texts
        for each, values in zip(found["activations"], contexts["values"], strict=True):
            np.testing.assert_allclose(each["values"], values, rtol=5.01e-4)
        assert [each["token"] for each in found["topLogits"]] == [strings[i] for i in panel["promoted"]["tokens"]]
        np.testing.assert_allclose([each["value"] for each in found["topLogits"]], panel["promoted"]["logits"], rtol=5.01e-4)
        assert found["density"] == pytest.approx(table[latent]["density"], rel=1e-6)


def test_values_are_those_of_the_scores_to_seven_digits(make: Build, inputs: Inputs) -> None:
    rows = pq.read_table(f"{inputs.scores}/examples.parquet").to_pylist()
    top = {row["latent"]: row for row in rows if row["kind"] == "top" and row["rank"] == 0}
    for each in features(make(["neuronpedia"]).uri):
        np.testing.assert_allclose(each["activations"][0]["values"], top[each["index"]]["token_activations"], rtol=1e-6)


def test_nothing_is_said_of_a_latent_that_never_fires(make: Build) -> None:
    uri = make(["neuronpedia"]).uri
    assert DEAD not in {each["index"] for each in features(uri)}
    assert str(DEAD) not in {row["index"] for row in exported(uri, "features")}


def test_no_token_is_empty_or_holds_what_a_database_refuses(make: Build) -> None:
    hostile = next(each for each in features(make(["neuronpedia"]).uri) if each["index"] == HOSTILE)
    tokens = {text for each in hostile["activations"] for text in each["tokens"]}
    assert "\\x00" in tokens
    assert all(text and "\0" not in text for text in tokens)


def test_intervals_hold_their_contexts_and_shares_add_up(make: Build) -> None:
    for each in features(make(["neuronpedia"]).uri):
        for context in each["activations"]:
            assert context["quantileMin"] <= max(context["values"]) <= context["quantileMax"]
        lower = {context["quantileMin"]: context["quantileFraction"] for context in each["activations"][8:]}
        assert all(share == pytest.approx(1 / 3, abs=1e-6) for share in lower.values())


def test_the_importer_loses_no_column(make: Build) -> None:
    uri = make(["neuronpedia"]).uri
    rows, activations = exported(uri, "features"), exported(uri, "activations")
    assert len(rows) == 119
    assert len(activations) == 119 * 14
    assert len({row["id"] for row in activations}) == len(activations)
    assert all(len(row["id"]) == 25 for row in activations)
    needed = {"modelId", "layer", "index", "creatorId", "maxActApprox", "hasVector", "frac_nonzero", "pos_str", "neg_values"}
    assert needed <= rows[0].keys()
    needed = {"id", "tokens", "values", "maxValue", "maxValueTokenIndex", "minValue", "binMin", "binMax", "binContains"}
    assert needed <= activations[0].keys()
    assert all(row["values"][row["maxValueTokenIndex"]] == row["maxValue"] for row in activations)
    singles = {name: json.loads(Path(uri, EXPORT, f"{name}.jsonl").read_text()) for name in ("model", "release")}
    assert singles["model"]["layers"] == 30
    assert singles["release"]["name"] == "tiny-saes"


def test_calls_are_split_by_bytes_as_well(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building.calls, "MOST_BYTES", 60_000)
    uri = make(["neuronpedia"]).uri
    sizes = [len(gzip.decompress(path.read_bytes())) for path in Path(uri).rglob("neuronpedia/calls/**/*.gz")]
    assert len(sizes) > 5
    assert max(sizes) <= 60_000
    assert len(features(uri)) == 119


def test_a_latent_that_alone_is_too_large_for_a_call_loses_its_last_contexts(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building.calls, "MOST_BYTES", 4_000)
    found = features(make(["neuronpedia"]).uri)
    assert len(found) == 119
    assert {len(each["activations"]) for each in found} & {7, 3}


def test_the_hub_folder_loads_in_saemill_and_gives_the_codes_in_the_other_formats(make: Build, inputs: Inputs) -> None:
    hub = f"{make(ALL).uri}/hub"
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32))
    codes = load(inputs.sae).encode(x)
    assert torch.equal(load(f"{hub}/saemill/model.layers.8").encode(x), codes)
    for module, folder in ((saelens, "saelens"), (sparsify, "sparsify")):
        theirs = module.read(open_store(f"{hub}/{folder}/model.layers.8")).module().encode(x)
        torch.testing.assert_close(theirs, codes, rtol=0, atol=1e-5)


def test_the_entry_of_saelens_registry_says_where_and_how_good(make: Build) -> None:
    entry = yaml.safe_load(Path(make(ALL).uri, "pretrained_saes.yaml").read_text())
    release = entry["tiny-saes"]
    assert (release["repo_id"], release["conversion_func"], release["model"]) == (REPO, None, "org/tiny-model")
    (sae,) = release["saes"]
    expected = {"id": "model.layers.8", "path": "saelens/model.layers.8", "neuronpedia": "tiny-model/8-tiny-saes"}
    assert sae == {**expected, "l0": 31.97, "variance_explained": pytest.approx(1 - 0.0912)}


def damages() -> Iterator[Any]:
    def case(name: str, change: Callable[[dict[str, Any]], object], said: str) -> Any:
        return pytest.param(lambda body: change(body["features"]), said, id=name)

    yield case("lost", lambda found: found.pop(), "latents of tiny-model/8-tiny-saes in calls")
    yield case("empty token", lambda found: found[3]["activations"][0]["tokens"].__setitem__(0, ""), "empty token")
    yield case("no value", lambda found: found[3]["activations"][0]["values"].pop(), "24 values for 25 tokens")
    yield case("NaN", lambda found: found[3].__setitem__("density", float("nan")), "holds NaN, which is not finite")
    yield case("no activation", lambda found: found[3].__setitem__("activations", []), "without an activation")
    yield case("twice", lambda found: found.__setitem__(1, found[0]), "names a latent twice")


@pytest.mark.parametrize(("change", "said"), sampled(damages(), share=0.34))
def test_what_a_server_would_refuse_is_found_before(change: Any, said: str, make: Build, small_batches: None) -> None:
    """Even where the manifest says that it must be so."""
    uri = Path(make(["neuronpedia"]).uri)
    key = "neuronpedia/calls/8-tiny-saes/batch-00000.json.gz"
    body = json.loads(gzip.decompress((uri / key).read_bytes()))
    change(body)
    data = gzip.compress(json.dumps(body).encode())
    (uri / key).write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged or was changed"):
        require_whole(str(uri))
    manifest = json.loads((uri / "manifest.json").read_text())
    manifest["objects"][key] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (uri / "manifest.json").write_bytes(to_json(manifest))
    with pytest.raises(ArtifactError, match=said):
        require_whole(str(uri))


def test_lines_with_other_keys_than_the_first_are_found() -> None:
    assert rules.broken_in_lines([{"a": 1, "b": 2}, {"a": 1}]) is not None
    assert rules.broken_in_lines([{"a": 1, "b": 2.0}, {"a": 1, "b": 3.0}]) is None


def test_a_batchtopk_sae_is_published_without_sparsify_and_the_card_says_why(
    make: Build, inputs: Inputs, tmp_path: Path
) -> None:
    write_sae(tmp_path / "saes/x-23456789abcd", N_LATENTS, "batchtopk")
    built = make(["hf"], saes=[f"{tmp_path}/saes/x-23456789abcd"])
    assert [each for each in built.refused if each.startswith("sparsify: ")]
    assert not Path(built.uri, "hub/sparsify").exists()
    assert "sparsify cannot hold model.layers.8" in Path(built.uri, "hub/README.md").read_text()


def test_the_model_is_named_as_others_find_it(make: Build, inputs: Inputs, tmp_path: Path) -> None:
    write_sae(tmp_path / "saes/x-23456789abcd", N_LATENTS, model="/home/me/models/tiny")
    given = {"saes": [f"{tmp_path}/saes/x-23456789abcd"]}
    with pytest.raises(InputError, match=r"a place of one machine; .* --model ORG/NAME"):
        make(["hf"], **given)
    hub = f"{make(['hf'], **given, model='org/other').uri}/hub"
    assert load(f"{hub}/saemill/model.layers.8").model == "org/other"
    assert not [path for path, data in tree(Path(hub)).items() if b"/home/me" in data]


@pytest.mark.parametrize(
    ("arguments", "said"),
    sampled(
        [
            ([], "Say what to build of SAEs with --to"),
            (["--to", "hf,zenodo"], "--to is 'zenodo', but must be of hf, neuronpedia, saelens-yaml, circuit-tracer"),
            (["--to", "hf"], "scores is missing"),
            (["--push", "ftp"], "hf:ORG/NAME, neuronpedia or"),
            (["--push", "neuronpedia", "--name", "x"], "--name is for building"),
            (["--to", "hf", "--scores", "{scores}", "--out", "{sae}"], "which holds other things"),
            (["--to", "saelens-yaml", "--scores", "{scores}", "--out", "{out}"], "say it with --name ORG/NAME"),
            (["--to", "circuit-tracer", "--scores", "{scores}", "--out", "{out}"], "this SAE rebuilds its own input"),
            (["--to", "hf", "--scores", "{activations}", "--out", "{out}"], "holds no scores"),
            (["--to", "hf", "--scores", "{scores},{scores}", "--out", "{out}"], "1 SAEs and 2 scores were given"),
            (
                ["--to", "neuronpedia", "--scores", "{scores}", "--out", "{out}", "--name", "neurons"],
                "say another with --name",
            ),
        ],
        share=0.4,
    ),
)
def test_what_does_not_fit_is_told_in_a_sentence(
    arguments: list[str], said: str, inputs: Inputs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    known = {"scores": inputs.scores, "sae": inputs.sae, "activations": inputs.activations, "out": f"{tmp_path}/out"}
    assert exit_code("publish", inputs.sae, *(each.format(**known) for each in arguments)) == 2
    told = capfd.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
    assert not Path(f"{tmp_path}/out/manifest.json").exists()


def test_another_order_for_the_same_folder_is_refused(make: Build) -> None:
    make(["hf"])
    with pytest.raises(InputError, match="another license"):
        make(["hf"], license="apache-2.0")


def copied_scores(inputs: Inputs, folder: Path, sae: str) -> str:
    """The same scores, which say that they are of another SAE."""
    folder.mkdir(parents=True)
    for path in Path(inputs.scores).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    stated = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**stated, "sae": sae}))
    return str(folder)


@pytest.mark.parametrize(
    ("hook", "places"),
    [
        ("model.layers.9", ["tiny-model/8-tiny-saes", "tiny-model/9-tiny-saes"]),
        ("model.layers.8.mlp", ["tiny-model/8-tiny-saes-model-layers-8", "tiny-model/8-tiny-saes-model-layers-8-mlp"]),
    ],
)
def test_saes_of_several_layers_share_a_set_and_those_of_one_layer_do_not(
    hook: str, places: list[str], make: Build, inputs: Inputs, tmp_path: Path
) -> None:
    write_sae(tmp_path / "saes/y-aaaaaaaaaaaa", N_LATENTS, hook=hook)
    scores = copied_scores(inputs, tmp_path / "scores", "aaaaaaaaaaaa")
    saes = [inputs.sae, f"{tmp_path}/saes/y-aaaaaaaaaaaa"]
    built = make(ALL, saes=saes, scores=[scores, inputs.scores])
    assert list(built.latents) == places
    sets = json.loads(Path(built.uri, "neuronpedia/calls.json").read_text())["sets"]
    assert len(sets) == len({place.partition("-tiny-saes")[2] for place in places})
    entry = yaml.safe_load(Path(built.uri, "pretrained_saes.yaml").read_text())["tiny-saes"]["saes"]
    assert [each["neuronpedia"] for each in entry] == places
    assert {path.name for path in Path(built.uri, "hub/saemill").iterdir()} == {"model.layers.8", hook}


def test_fewer_layers_than_the_sae_reads_at_are_refused_before_a_name_is_used_up(make: Build, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 8 layers .* reads layer 8, from 0 on"):
        make(["neuronpedia"], layers=8)
    assert not (tmp_path / "out").exists()


def test_saes_of_two_models_are_refused(make: Build, inputs: Inputs, tmp_path: Path) -> None:
    write_sae(tmp_path / "saes/y-aaaaaaaaaaaa", N_LATENTS, model="org/other")
    scores = copied_scores(inputs, tmp_path / "scores", "aaaaaaaaaaaa")
    with pytest.raises(InputError, match="org/other and org/tiny-model"):
        make(["hf"], saes=[inputs.sae, f"{tmp_path}/saes/y-aaaaaaaaaaaa"], scores=[scores, inputs.scores])


def test_scores_of_another_sae_are_refused(make: Build, inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="None of the scores given is of the SAE"):
        make(["hf"], scores=[copied_scores(inputs, tmp_path / "scores", "bbbbbbbbbbbb")])


def test_scores_of_the_same_latents_in_another_order_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    scores = Path(copied_scores(inputs, tmp_path / "scores", "23456789abcd"))
    table = pq.read_table(scores / "latents.parquet")
    turned = table.take(list(range(N_LATENTS))[::-1]).set_column(0, "latent", table["latent"])
    pq.write_table(turned, scores / "latents.parquet")
    with pytest.raises(InputError, match="are of other weights than those of the SAE"):
        read_scored([inputs.sae], [str(scores)], None)


def test_an_imported_sae_takes_scores_of_a_place_where_none_is_now_if_there_is_one_choice(
    inputs: Inputs, tmp_path: Path
) -> None:
    write_sae(tmp_path / "moved", N_LATENTS)
    (tmp_path / "moved/manifest.json").unlink()
    gone, other = (copied_scores(inputs, tmp_path / name, f"{tmp_path}/{name}-sae") for name in ("gone", "other"))
    sae = f"{tmp_path}/moved"
    assert len(read_scored([sae], [gone], None)) == 1
    with pytest.raises(InputError, match="cannot be told"):
        read_scored([sae, inputs.sae], [gone, other], None)
    write_sae(tmp_path / "gone-sae", N_LATENTS)
    with pytest.raises(InputError, match="None of the scores given is of the SAE"):
        read_scored([sae], [gone], None)


def test_a_transcoder_is_published_for_circuit_tracer_too(make: Build, tmp_path: Path) -> None:
    hooks = {"hook": "model.layers.8.mlp:input", "target_hook": "model.layers.8.mlp"}
    write_sae(tmp_path / "saes/x-23456789abcd", N_LATENTS, "batchtopk", **hooks)
    hub = f"{make(['hf', 'circuit-tracer'], saes=[f'{tmp_path}/saes/x-23456789abcd']).uri}/hub"
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32))
    codes = load(f"{tmp_path}/saes/x-23456789abcd").encode(x)
    (tmp_path / "theirs").mkdir()
    for name in ("config.yaml", "layer_8.safetensors"):
        (tmp_path / "theirs" / name).write_bytes(Path(hub, name).read_bytes())
    theirs = circuit_tracer.read(open_store(f"{tmp_path}/theirs")).module().encode(x)
    torch.testing.assert_close(theirs, codes, rtol=0, atol=1e-5)
    assert "For circuit-tracer" in Path(hub, "README.md").read_text()


def test_a_part_of_a_character_stands_in_its_bytes(inputs: Inputs, tmp_path: Path) -> None:
    """An emoji of four bytes in four tokens: in the scores it stands at the last of them, and the others are empty."""
    tokenizer = byte_level()
    ids = tokenizer.encode("ab 😀 cd").ids
    Path(tmp_path, "tokenizer").mkdir()
    Path(tmp_path, "tokenizer/tokenizer.json").write_text(tokenizer.to_str())
    pq.write_table(pa.table({"token_ids": pa.array([ids], pa.list_(pa.int32()))}), tmp_path / "sequences.parquet")
    (found,) = read_scored([inputs.sae], [inputs.scores], None)
    row = found.examples.slice(0, 1).to_pylist()[0]
    shown = TokenStrings(tokenizer).of_sequence(ids)
    assert "" in shown
    context = {"tokens": shown, "token_activations": [1.0] * len(ids), "peak": 2, "sequence": 0, "position": 2}
    examples = pa.Table.from_pylist([{**row, **context}], found.examples.schema)
    first = next(iter(dashboards(replace(found, tokens=str(tmp_path), examples=examples))))
    assert first.contexts[0].tokens == [
        *("a", "b", " "),
        *("\\xf0", "\\x9f", "\\x98", "\N{GRINNING FACE}"),
        *(" ", "c", "d"),
    ]


def test_a_long_context_is_cut_around_its_peak(inputs: Inputs) -> None:
    (found,) = read_scored([inputs.sae], [inputs.scores], None)
    row = found.examples.slice(0, 1).to_pylist()[0]
    values = np.zeros(3000, np.float32)
    values[2500] = row["activation"]
    context = {"tokens": ["x"] * 3000, "token_activations": values.tolist(), "peak": 2500}
    examples = pa.Table.from_pylist([{**row, **context}], found.examples.schema)
    (cut,) = next(iter(dashboards(replace(found, examples=examples)))).contexts
    assert len(cut.tokens) == len(cut.values) == 1024
    assert cut.values[cut.peak] == max(cut.values) > 0
