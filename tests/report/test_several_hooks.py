"""Reports on transcoders and crosscoders say what was read, what was rebuilt, and how well at each hook."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect

from flows.config import PipelineConfig, parse_config
from tasks.report import figures, kinds, overview
from tasks.report.inputs import Inputs, read_inputs
from tests.composed import about
from tests.report.conftest import Open
from tests.report.stages import SUMMARY, Stages, language_model_stages

LAYERS = ["model.layers.4", "model.layers.8", "model.layers.12"]
MLP = ["model.layers.8.mlp:input", "model.layers.8.mlp"]
BY_HOOK = [
    {"hook": hook, "d_in": 576, "fvu": fvu, "cosine": 0.95, "shrinkage": 0.98, "gamma": 1.0, "decoder_norm_share": share}
    for hook, fvu, share in zip(LAYERS, (0.21, 0.15, 0.1834), (0.25, 0.45, 0.3), strict=True)
]


def changed(root: Path, hooks: list[str], sae: dict[str, Any], summary: dict[str, Any], train: dict[str, Any]) -> Stages:
    """A finished run at one hook, made into one at several."""
    stages = language_model_stages(root, n_latents=70)
    edit(Path(stages.activations, "manifest.json"), hooks={hook: one_hook(stages) for hook in hooks})
    edit(Path(stages.sae, "config.json"), **sae)
    edit(Path(stages.scores, "summary.json"), **summary)
    return Stages(config(hooks, train), stages.tokens, stages.activations, stages.sae, stages.scores)


def config(hooks: list[str], train: dict[str, Any]) -> PipelineConfig:
    return parse_config({"text": {"source": "x.parquet"}, "harvest": {"hooks": hooks}, "sae": {"d_sae": 70}, "train": train})


def one_hook(stages: Stages) -> dict[str, Any]:
    (entry,) = json.loads(Path(stages.activations, "manifest.json").read_text())["hooks"].values()
    return dict(entry)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def crosscoder(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    ends = {"input_hooks": LAYERS, "output_hooks": LAYERS}
    definitions = SUMMARY["definitions"] | {"hooks": "Of each hook alone.", "kind": "A crosscoder.", "input_hooks": "Read."}
    summary = {"kind": "crosscoder", **ends, "hooks": BY_HOOK, "ce": None, "definitions": definitions}
    stages = changed(tmp_path_factory.mktemp("crosscoder"), LAYERS, {}, summary, {"hooks": LAYERS})
    latents = pq.read_table(Path(stages.scores, "latents.parquet"))
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], latents.num_rows).round(3)
    shares[7] = [0.1, 0.7, 0.2]
    column = pa.array(list(shares), pa.list_(pa.float32()))
    pq.write_table(latents.append_column("decoder_norm_share", column), Path(stages.scores, "latents.parquet"))
    return stages


@pytest.fixture(scope="module")
def transcoder(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    baselines = {"mean": {"fvu": 1.0}, "sae_same_rows": {"fvu": 0.2, "tokens": 100}}
    baselines |= {"linear": {"fvu": 0.4}, "linear_rank_k": {"fvu": 0.6, "components": 32}}
    summary = {"kind": "transcoder", "input_hooks": MLP[:1], "output_hooks": MLP[1:], "baselines": baselines}
    train = {"hook": MLP[0], "target_hook": MLP[1]}
    stages = changed(tmp_path_factory.mktemp("transcoder"), MLP, {"skip": True}, summary, train)
    latents = pq.read_table(Path(stages.scores, "latents.parquet"))
    place = latents.column_names.index("encoder_decoder_cosine")
    nothing = latents.set_column(place, "encoder_decoder_cosine", pa.nulls(latents.num_rows, pa.float32()))
    pq.write_table(nothing, Path(stages.scores, "latents.parquet"))
    return stages


def inputs_of(stages: Stages) -> Inputs:
    return read_inputs(stages.tokens, stages.activations, stages.sae, stages.scores)


def test_a_transcoder_is_named_with_both_its_hooks(transcoder: Stages) -> None:
    inputs = inputs_of(transcoder)
    assert overview.title(about(transcoder.config), inputs) == f"SmolLM2-135M-Instruct · {MLP[0]} → {MLP[1]}"
    said = overview.sentence(about(transcoder.config), inputs)
    assert said.startswith("A TopK skip transcoder with 70 latents (k = 32), trained on the activations (576 features) of ")
    assert f"tokens from {MLP[0]} to {MLP[1]} of SmolLM2-135M-Instruct, scored on" in said


def test_a_crosscoder_is_named_with_all_its_hooks(crosscoder: Stages) -> None:
    inputs = inputs_of(crosscoder)
    assert overview.title(about(crosscoder.config), inputs) == "SmolLM2-135M-Instruct · " + ", ".join(LAYERS)
    said = overview.sentence(about(crosscoder.config), inputs)
    assert "A TopK crosscoder with 70 latents (k = 32), trained on the activations (1,728 features)" in said
    assert "at model.layers.4, model.layers.8 and model.layers.12 of" in said


def test_an_sae_of_one_hook_is_named_as_ever(stages: Stages) -> None:
    assert kinds.noun(inputs_of(stages)) == "TopK sparse autoencoder"
    assert kinds.places(inputs_of(stages).roles) == "at model.layers.8"


def test_baselines_of_a_transcoder_are_linear_maps(transcoder: Stages) -> None:
    rows = figures.baselines(inputs_of(transcoder).summary)
    assert [row["name"] for row in rows] == ["This transcoder", "Linear map", "Linear map of rank 32", "Mean"]


def test_losses_are_those_with_the_transcoder_in_the_model(transcoder: Stages, stages: Stages) -> None:
    assert [name for name, _ in overview.ce_rows(inputs_of(transcoder).summary)][:2] == [
        "Model as it is",
        "Transcoder spliced in",
    ]
    assert overview.ce_rows(inputs_of(stages).summary)[1][0] == "SAE spliced in"


def test_metrics_begin_with_what_was_trained(crosscoder: Stages) -> None:
    rows = overview.metrics(inputs_of(crosscoder).summary)
    assert [(row.name, row.value) for row in rows[:3]] == [
        ("kind", "crosscoder"),
        ("input_hooks", ", ".join(LAYERS)),
        ("hooks", "see the table"),
    ]


@pytest.mark.browser
def test_a_crosscoders_report_tells_of_each_hook_and_where_each_latent_writes(
    crosscoder: Stages, open_report: Open, tmp_path: Path
) -> None:
    page = open_report(crosscoder.render(tmp_path))
    expect(page.locator("#by-hook tbody tr")).to_have_count(3)
    expect(page.locator("#by-hook tbody tr").nth(1)).to_contain_text("model.layers.85760.1500.95045 %")
    page.goto(f"{page.url.partition('#')[0]}#latent/7")
    expect(page.locator(".shares li")).to_have_count(3)
    expect(page.locator(".shares li").nth(1)).to_have_text(r"model.layers.870 %")
    page.goto(f"{page.url.partition('#')[0]}#setup")
    expect(page.get_by_role("heading", name="Norms at")).to_have_count(3)


@pytest.mark.browser
def test_a_transcoders_report_opens_without_what_it_does_not_have(
    transcoder: Stages, open_report: Open, tmp_path: Path
) -> None:
    page = open_report(transcoder.render(tmp_path))
    expect(page.locator("#by-hook")).to_have_count(0)
    page.goto(f"{page.url.partition('#')[0]}#latent/7")
    expect(page.locator(".facts")).to_contain_text("Enc·dec cosine\N{EN DASH}")
    expect(page.locator(".shares")).to_have_count(0)
