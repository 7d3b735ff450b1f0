"""What scores say of their latents' columns is what the pages show, without a word of it in the report's own code."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from playwright.sync_api import expect

from tasks.latent_columns import Shown
from tasks.report.inputs import read_inputs
from tasks.report.tables import shown_columns
from tasks.score.columns import COLUMNS, Column, Latents, latents_table
from tasks.score.directions import Directions
from tasks.score.stats import LatentSums
from tasks.score.tables import WeightColumns
from tests.report.conftest import Open
from tests.report.stages import Stages

ROWS = 102_144
PEAKINESS = Column(
    "peakiness",
    lambda latents: pa.array(latents.sums.largest / np.maximum(latents.mean_activation, 1e-9), pa.float64()),
    Shown(title="Peak over mean", heading="Peaky", tip="Largest activation over the mean & <b>more</b>", digits=3),
)
"""A column that the report has never heard of: this declaration is all that there is of it."""
SHOWN = [*(column.name for column in COLUMNS if column.shown is not None), PEAKINESS.name]


def latents_of(table: pa.Table) -> Latents:
    """What scoring could have found, for as many latents as the table has, with its lists."""
    rng, n_active = np.random.default_rng(5), table["n_active"].to_numpy()
    largest = table["max_activation"].to_numpy().astype(np.float32)
    n = len(n_active)
    total = n_active * largest * rng.uniform(0.05, 0.9, n)
    sums = LatentSums(ROWS, n_active.astype(np.int64), total, largest, np.zeros(n + 1, np.int64))
    lists = [table[name].combine_chunks() for name in ("promoted", "suppressed", "neighbours")]
    decoder = torch.randn(n, 8, generator=torch.Generator().manual_seed(0))
    histogram = np.array(table["histogram"].to_pylist())
    return Latents(sums, histogram, WeightColumns(*lists), Directions(decoder, decoder[:, 0].clamp(-1, 1), None))


@pytest.fixture(scope="module")
def described(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The run on text, its latents' table written by scoring from the declared columns and one more."""
    scores = tmp_path_factory.mktemp("described") / "scores"
    shutil.copytree(stages.scores, scores)
    path = scores / "latents.parquet"
    pq.write_table(latents_table(latents_of(pq.read_table(path)), (*COLUMNS, PEAKINESS)), path)
    return replace(stages, scores=str(scores))


@pytest.fixture(scope="module")
def described_report(described: Stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return described.render(tmp_path_factory.mktemp("described-report"))


def peakiness_of(stages: Stages) -> dict[int, float]:
    """Of each latent, to four digits, as the page has it."""
    table = pq.read_table(Path(stages.scores, "latents.parquet"))
    found = (float(f"{value:.3e}") for value in table["peakiness"].to_pylist())
    return dict(zip(table["latent"].to_pylist(), found, strict=True))


@pytest.mark.browser
def test_one_declaration_is_a_column_of_the_page_that_sorts(
    described: Stages, described_report: Path, open_report: Open
) -> None:
    page = open_report(described_report, "#latents")
    expect(page.locator("#rows tr")).to_have_count(50)
    heads = page.locator(".latents thead th")
    expect(heads).to_have_count(3 + len(SHOWN))
    expect(heads.last).to_have_text("Peaky")
    values = peakiness_of(described)
    values.pop(5)  # the dead one, which is hidden
    for descending in (True, False):
        heads.last.get_by_role("button").click()
        expect(heads.last).to_have_attribute("aria-sort", "descending" if descending else "ascending")
        sign = -1 if descending else 1
        wanted = sorted(values, key=lambda latent: (sign * values[latent], latent))[:10]
        links = page.locator("#rows .c-latent").all_text_contents()
        cells = page.locator("#rows tr td:last-child").all_text_contents()
        assert [int(text) for text in links[:10]] == wanted
        shown = [float(text.replace(",", "")) for text in cells[:10]]
        assert shown == pytest.approx([values[latent] for latent in wanted], rel=6e-3)


@pytest.mark.browser
def test_a_declared_column_tells_what_it_is_and_stands_in_the_panel(
    described: Stages, described_report: Path, open_report: Open
) -> None:
    page = open_report(described_report, "#latents")
    page.locator("[data-sort=peakiness]").hover()
    expect(page.locator("#tip")).to_have_text("Largest activation over the mean & <b>more</b>")
    page.goto(f"{page.url.partition('#')[0]}#latent/7")
    fact = page.locator(".facts > div").last
    expect(fact.locator("dt")).to_have_text("Peak over mean")
    assert float(fact.locator("dd").inner_text()) == pytest.approx(peakiness_of(described)[7], rel=6e-4)


@pytest.mark.browser
@pytest.mark.parametrize("place", ["#latents", "#latent/7"])
@pytest.mark.parametrize("width", [1280, 800])
def test_one_more_column_overflows_nothing_sideways(
    described_report: Path, open_report: Open, place: str, width: int
) -> None:
    page = open_report(described_report, place, width=width)
    expect(page.locator(f"#view-{place[1:].split('/')[0]} .card").last).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_scores_that_do_not_describe_their_columns_are_shown_as_the_declared_ones(stages: Stages, described: Stages) -> None:
    shown = [
        shown_columns(read_inputs(each.tokens, each.activations, each.sae, each.scores).latents)
        for each in (stages, described)
    ]
    there = [column.name for column in shown[0]]
    assert len(there) == 6
    assert list(shown[0]) == [column for column in shown[1] if column.name in there]
    assert [column.name for column in shown[1]] == SHOWN
