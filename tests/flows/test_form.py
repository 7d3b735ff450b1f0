"""The forms by which runs are started: what they ask, what they refuse, and what the settings come to."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate

from flows.config import load_config
from flows.configurations import load_stored, offer
from flows.form import Form, NightlyForm, PipelineForm, SweepForm
from flows.nightly import nightly
from flows.on_prefect import pipeline, sweep
from tasks.errors import InputError
from tasks.storage.artifacts import read_json
from tests.conftest import ROOT
from tests.flows.conftest import Served

FORMS = {"pipeline": (pipeline, PipelineForm), "sweep": (sweep, SweepForm), "nightly": (nightly, NightlyForm)}
UIS = {"v1": "/deployments", "v2": "/v2/deployments"}
"""Where Prefect's two UIs lie; '/' leads to the second."""
TALLEST = 2500


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Flow runs start in a directory of their own."""
    monkeypatch.chdir(tmp_path)


def properties(name: str) -> dict[str, Any]:
    return parameter_schema(FORMS[name][0]).model_dump()["properties"]


@pytest.mark.parametrize("name", FORMS)
def test_every_field_has_a_title_in_words_a_description_and_a_kind_that_is_one_input(name: str) -> None:
    for key, field in properties(name).items():
        assert field["title"][0].isupper(), key
        assert "_" not in field["title"], key
        assert field["description"].endswith("."), key
        # An anyOf, as for "a number or null", would be two tabs; what has no type gets a raw JSON editor.
        assert field["type"] in ("string", "integer", "number", "array"), key
        assert field.get("default", "") is not None, "would be sent as a value"


def test_the_form_asks_for_what_is_changed_most() -> None:
    sizes = ["architecture", "d_sae", "k", "tokens"]
    lists = ["architectures", "d_sae", "k", "lr", "seeds", "tokens"]
    sources = ["configuration", "file", "model", "corpus", "hook"]
    assert list(properties("pipeline")) == [*sources, *sizes, "storage", "until", "overrides"]
    assert list(properties("sweep")) == [*sources, *lists, "storage", "overrides"]
    assert list(properties("nightly")) == ["configuration", "file", "storage", "skip_if_late_hours", "overrides"]


def test_a_field_tells_what_the_configurations_say() -> None:
    told = properties("pipeline")["d_sae"]["description"]
    assert "sae.d_sae: 4608 (crosscoder, demo, nightly, transcoder); 16 (toy)" in told


@pytest.mark.parametrize(
    "wrong",
    [
        {"d_sae": -5},
        {"d_sae": 0},
        {"d_sae": 1.5},
        {"d_sae": "many"},
        {"d_sae": True},
        {"k": 0},
        {"tokens": -1},
        {"architecture": "magic"},
        {"until": "the end"},
        {"configuration": "nowhere"},
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_the_schema_and_in_a_run(wrong: dict[str, Any]) -> None:
    given = {"configuration": "toy", **wrong}
    assert validate(given, parameter_schema(pipeline).model_dump_for_openapi()), "the server accepts it"
    with pytest.raises(InputError) as refused:
        PipelineForm.filled(given, {}).settings()
    assert str(next(iter(wrong.values()))) in str(refused.value)


def test_fields_change_settings_and_the_lines_below_them_win() -> None:
    lines = "train.lr=1e-3\n\n  # a remark\nsae.k=8\n"
    sizes = {"architecture": "topk", "d_sae": 64, "k": 4, "tokens": 4096}
    sources = {"model": "HuggingFaceTB/SmolLM2-1.7B", "corpus": "s3://corpus/*.parquet", "hook": "model.layers.12"}
    given = {"configuration": "demo", **sources, **sizes, "storage": "s3://bucket/x", "overrides": lines}
    found = PipelineForm.filled(given, {}).settings()
    expected = ["model.name=HuggingFaceTB/SmolLM2-1.7B", "text.source=s3://corpus/*.parquet", "sae.arch=topk", "sae.k=8"]
    expected += ["harvest.hooks=[model.layers.12]", "sae.d_sae=64", "train.tokens=4096", "train.lr=1e-3"]
    assert found == load_config(ROOT / "configs/demo.yaml", expected, "s3://bucket/x")


def test_the_lists_of_a_sweep_are_those_of_the_settings() -> None:
    given = {"architectures": ["topk", "l1"], "d_sae": [64, 128], "k": [4, 8], "lr": [1e-3], "seeds": [0, 1]}
    found = SweepForm.filled({"configuration": "demo", **given}, {}).settings().sweep
    assert (found.archs, found.d_sae, found.k) == (("topk", "l1"), (64, 128), (4, 8))
    assert (found.lr, found.seeds) == ((1e-3,), (0, 1))


@pytest.mark.parametrize("line", ["sae.k", "sae.width=3", "train.tokens=many", "sae.k=0", "sae.k.x=1"])
def test_a_wrong_line_is_refused_with_the_sentence_of_set(line: str) -> None:
    with pytest.raises(InputError) as of_set:
        load_config(ROOT / "configs/toy.yaml", [line])
    with pytest.raises(InputError) as of_form:
        PipelineForm.filled({"configuration": "toy", "overrides": line}, {}).settings()
    assert str(of_form.value) == str(of_set.value)


@pytest.mark.parametrize("nothing", [None, "", "  ", [], {}])
@pytest.mark.parametrize("form", [PipelineForm, SweepForm, NightlyForm])
def test_an_empty_copy_of_a_form_changes_nothing(form: type[Form], nothing: Any) -> None:
    stored = {"configuration": "toy", "storage": "/somewhere"}
    assert form.filled(dict.fromkeys(form.model_fields, nothing), stored) == form.filled({}, stored)


def test_lines_of_a_run_come_after_those_of_its_deployment() -> None:
    stored = {"configuration": "toy", "overrides": "ray.address=auto\nsae.k=2"}
    found = PipelineForm.filled({"overrides": "sae.k=3"}, stored).settings()
    assert (found.ray.address, found.sae.k) == ("auto", 3)


def test_a_configuration_is_read_when_the_run_starts_with_paths_from_where_serve_was_started(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "text.txt").write_text("x")
    own = tmp_path / "configs/own.yaml"
    own.write_text("text: {source: text.txt}")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/own.yaml").write_text("text: {source: text.txt}\nsae: {k: 3}")
    assert offer(["configs/own.yaml", "beside/own.yaml"]) == ["own", str(tmp_path / "beside/own.yaml")]
    own.write_text("text: {source: text.txt}\nsae: {k: 5}")
    found = load_stored("own")
    assert found.sae.k == 5
    assert found.text.source == str(tmp_path / "text.txt")
    assert found.storage == str(tmp_path / "runs")
    assert load_stored("beside/own.yaml").sae.k == 3
    with pytest.raises(InputError, match=r"There is no configuration 'x'\. Take one of .*own"):
        load_stored("x")


@pytest.mark.s3
def test_a_configuration_may_lie_on_object_storage(s3: str) -> None:
    from tasks.storage.objects import open_store

    open_store(f"{s3}/configurations").put("own.yaml", b"text: {source: 's3://x/y.txt'}\nsae: {k: 7}")
    open_store(f"{s3}/configurations").put("bad.yaml", b"sae: {k: 7")
    assert load_stored(f"{s3}/configurations/own.yaml").sae.k == 7
    with pytest.raises(InputError, match=f"file {s3}/configurations/bad.yaml is not valid YAML"):
        load_stored(f"{s3}/configurations/bad.yaml")
    with pytest.raises(InputError, match="There is no configuration at"):
        load_stored(f"{s3}/configurations/none.yaml")


def open_form(served: Served, page: Page, ui: str, deployment: str) -> None:
    served.enter(page)
    page.goto(f"{served.url}{UIS[ui]}/deployment/{served.deployment(deployment)['id']}/run")
    page.get_by_text("Other settings").first.wait_for()


def field(page: Page, title: str) -> Locator:
    """The input of a field; in the older UI its label is not tied to it."""
    label = page.get_by_text(f"{title} (Optional)", exact=True)
    within = page.locator("div.schema-form-property, div.group").filter(has=label).last
    return within.locator("input, textarea").first


@pytest.mark.prefect
@pytest.mark.browser
@pytest.mark.parametrize("deployment", ["pipeline", "sweep"])
@pytest.mark.parametrize("ui", UIS)
def test_the_form_fits_a_few_screens(served: Served, page: Page, ui: str, deployment: str) -> None:
    open_form(served, page, ui, deployment)
    page.get_by_text("Storage (Optional)").wait_for()
    height = page.evaluate("Math.max(...[...document.querySelectorAll('*')].map(element => element.scrollHeight))")
    assert 1000 < height < TALLEST


@pytest.mark.prefect
@pytest.mark.browser
@pytest.mark.parametrize("ui", UIS)
def test_wrong_values_are_refused_in_the_form(served: Served, page: Page, ui: str) -> None:
    open_form(served, page, ui, "pipeline")
    before = len(served.runs("pipeline"))
    latents = field(page, "Latents")
    latents.fill("-5")
    page.get_by_role("button", name="Submit").click()
    if ui == "v2":  # the browser itself points at the field
        assert latents.evaluate("input => input.validationMessage") == "Value must be greater than or equal to 1."
    else:
        page.get_by_text("-5 is less than the minimum of 1").first.wait_for()
    assert "/run" in page.url
    assert len(served.runs("pipeline")) == before


@pytest.mark.prefect
@pytest.mark.browser
@pytest.mark.ray
def test_a_run_from_the_form_with_changed_values_completes_and_its_report_opens(served: Served, page: Page) -> None:
    open_form(served, page, "v2", "pipeline")
    field(page, "Latents").fill("19")
    field(page, "Other settings").fill("name=changed\nsae.l1_coefficient=0.04")
    earlier = {run["id"] for run in served.runs("pipeline")}
    page.get_by_role("button", name="Submit").click()
    served.wait(lambda: len(served.runs("pipeline")) > len(earlier), "the run that the form starts")
    (run,) = (run for run in served.runs("pipeline") if run["id"] not in earlier)
    assert run["parameters"]["d_sae"] == 19
    page.goto("about:blank")  # a page that is left open asks the server all the time, which is a quarter of a core
    assert served.wait_until_ended(run["id"])["type"] == "COMPLETED", served.log()
    told = served.call("POST", "logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert any(line["message"].startswith("plan: ") for line in told), "the stages' own log"
    ended = served.call("GET", f"flow_runs/{run['id']}")
    assert ended["name"] == "toy.parquet l1 19 k32"
    assert {"changed", "toy.parquet", "l1"} <= {*ended["tags"]}

    told = {a["key"]: a for a in served.call("POST", "artifacts/filter", {}) if a["flow_run_id"] == run["id"]}
    assert "| fvu |" in told["summary"]["data"]
    assert "[Open the report](http://127.0.0.1:" in told["summary"]["data"]

    page.goto(f"{served.url}/v2/runs/flow-run/{run['id']}")
    page.get_by_role("combobox").filter(has_text="Oldest to newest").click()
    page.get_by_role("option", name="Newest to oldest").click()
    link = page.locator("a[href$='/index.html']").first
    with page.expect_popup():
        link.click()
    report = page.context.pages[-1]
    report.wait_for_load_state()
    assert "/reports" not in report.url
    assert "19" in report.inner_text("body")
    saes = [config for sae in served.storage.glob("saes/changed-*") if (config := read_json(str(sae), "config.json"))]
    assert [config["d_sae"] for config in saes] == [19]


@pytest.mark.prefect
def test_wrong_input_in_a_run_is_one_sentence_and_no_traceback(served: Served) -> None:
    run = served.start_run("pipeline", {"overrides": "sae.k=0"})
    state = served.wait_until_ended(run)
    with pytest.raises(InputError) as expected:
        load_config(ROOT / "configs/toy.yaml", ["sae.k=0"])
    assert (state["type"], state["message"]) == ("FAILED", str(expected.value))
    assert "Traceback" not in (served.folder / "serve.log").read_text(), json.dumps(state)
