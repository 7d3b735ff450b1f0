"""The report as a reader meets it: opened from disk in Chromium, without a network."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.report.conftest import Open
from tests.report.stages import HOSTILE, Stages

pytestmark = pytest.mark.browser


def first_latents(page: Page, n: int = 10) -> list[int]:
    return [int(text) for text in page.locator("#rows .c-latent").all_text_contents()[:n]]


def is_hacked(page: Page) -> bool:
    return bool(page.evaluate("'hacked' in window"))


def test_the_overview_opens_with_key_figures_and_charts(report: Path, open_report: Open) -> None:
    page = open_report(report)
    expect(page.get_by_role("heading", level=1).first).to_have_text("SmolLM2-135M-Instruct · model.layers.8")
    expect(page.locator(".figure-card").first).to_contain_text("0.0912")
    expect(page.locator("#view-overview svg.plot")).to_have_count(5)  # fvu, loss, l0, dead and the densities
    page.locator("#density-chart .bin").nth(30).hover()
    expect(page.locator("#tip")).to_contain_text("latents")


def test_a_curve_tells_its_values_under_the_pointer(report: Path, open_report: Open) -> None:
    page = open_report(report)
    page.locator("[data-curve=fvu] .cover").hover()
    expect(page.locator("#tip")).to_contain_text(re.compile(r"FVU 0\.\d+\s*after [\d,]+"))


def test_search_finds_a_latent_by_promoted_token(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latents")
    page.locator("#search").fill("emancip")
    expect(page.locator("#count")).to_have_text("1 match")
    assert first_latents(page) == [7]
    expect(page.locator("#rows mark")).to_have_text("emancipation")


def test_search_finds_phrases_in_contexts_and_puts_what_fires_on_them_first(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latents")
    page.locator("#search").fill("House  DIVIDED")
    expect(page.locator("#rows mark").first).to_have_text("house divided")
    page.locator("#search").fill("lincoln")
    expect(page.locator("#rows mark").first).to_have_text("Lincoln")
    assert first_latents(page)[0] == 7


def test_search_finds_a_latent_by_number_even_when_it_is_dead(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latents")
    page.locator("#search").fill("#5")
    expect(page.locator("#count")).to_have_text("1 match")
    assert first_latents(page) == [5]


def test_what_does_not_occur_is_said_not_to_match(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latents")
    page.locator("#search").fill("zyzzyva")
    expect(page.get_by_text("No latent matches.")).to_be_visible()


def test_sorting_orders_rows_by_the_column_and_back(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latents")
    expect(page.locator("#rows tr")).to_have_count(50)
    assert first_latents(page, 5) == [0, 1, 2, 3, 4]
    page.get_by_role("button", name="Active").click()
    shown = [int(text.replace(",", "")) for text in page.locator("#rows td:nth-child(5)").all_text_contents()]
    assert shown == sorted(shown, reverse=True)
    assert len(set(shown)) > 10
    page.get_by_role("button", name="Active").click()
    shown = [int(text.replace(",", "")) for text in page.locator("#rows td:nth-child(5)").all_text_contents()]
    assert shown == sorted(shown)
    assert shown[0] >= 1, "dead latents are hidden"


def test_dead_latents_show_when_asked_for(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latents")
    expect(page.locator("#rows tr[data-latent='4']")).to_be_visible()
    assert 5 not in first_latents(page)
    page.get_by_label("Show dead latents").check()
    assert 5 in first_latents(page)


def test_pages_turn_by_button_and_by_arrow_key(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latents")
    expect(page.locator("#page")).to_have_text("1–50 of 199")  # noqa: RUF001
    page.get_by_role("button", name="Next page").click()
    expect(page.locator("#page")).to_have_text("51–100 of 199")  # noqa: RUF001
    page.locator("body").press("ArrowLeft")
    expect(page.locator("#page")).to_have_text("1–50 of 199")  # noqa: RUF001


def test_a_row_opens_the_panel_with_highlighted_tokens(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latents")
    page.locator("#rows tr[data-latent='7'] .c-text").click()
    panel = page.locator("#view-latent")
    expect(panel.get_by_role("heading", level=1)).to_have_text("Latent 7")
    expect(panel.locator(".contexts > li")).to_have_count(14)
    expect(panel.get_by_role("heading", name="Weaker contexts")).to_have_count(3)
    peak = panel.locator(".tok.peak").first
    expect(peak).to_have_text("Lincoln")
    peak.hover()
    expect(page.locator("#tip")).to_contain_text(re.compile(r"“·Lincoln”\s+[\d.]+\s+position \d+"))
    expect(panel.locator(".caption strong").first).to_have_text(re.compile(r"\w+, \d{4}"))
    expect(panel.locator(".plot .column")).to_have_count(20)


def test_stronger_activations_are_shaded_more(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latent/7")
    expect(page.locator("#view-latent .tok.peak")).to_have_count(14)
    alphas = page.locator("#view-latent .tok.peak").evaluate_all(
        "spans => spans.map(span => Number(getComputedStyle(span).backgroundColor.match(/[\\d.]+/g)[3]))"
    )
    assert alphas == sorted(alphas, reverse=True)
    assert alphas[0] > alphas[-1] + 0.3


def test_a_deep_link_opens_a_latent_and_keys_go_on_and_back(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latent/100")
    heading = page.locator("#view-latent h1")
    expect(heading).to_have_text("Latent 100")
    page.keyboard.press("ArrowRight")
    expect(heading).to_have_text("Latent 101")
    page.keyboard.press("ArrowLeft")
    expect(heading).to_have_text("Latent 100")
    page.keyboard.press("Escape")
    expect(page.locator("#rows tr[data-latent='100'] a")).to_be_focused()


def test_previous_and_next_follow_the_order_of_the_table(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latents")
    page.get_by_role("button", name="Max").click()
    strongest = first_latents(page, 2)
    page.locator("#rows tr").first.click()
    expect(page.locator("#view-latent h1")).to_have_text(f"Latent {strongest[0]}")
    page.get_by_role("link", name="Next →").click()
    expect(page.locator("#view-latent h1")).to_have_text(f"Latent {strongest[1]}")


def test_neighbours_are_links(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latent/7")
    neighbour = page.locator(".neighbours a").first
    number = neighbour.text_content()
    neighbour.click()
    expect(page.locator("#view-latent h1")).to_have_text(f"Latent {number}")


@pytest.mark.parametrize("place", ["#latent/5", "#latent/99999", "#latent/abc", "#latent", "#nowhere"])
def test_dead_latents_and_wrong_addresses_say_so_or_lead_home(report: Path, open_report: Open, place: str) -> None:
    page = open_report(report, place)
    words = {"#latent/5": "never fired on the scored", "#nowhere": "Browse 200 latents"}.get(place, "There is no latent")
    expect(page.get_by_text(words)).to_be_visible()


@pytest.mark.parametrize("place", ["#latents", "#latent/3", "#overview", "#setup"])
def test_hostile_text_executes_nothing(report: Path, open_report: Open, place: str) -> None:
    page = open_report(report, place)
    expect(page.locator(f"#view-{place[1:].split('/')[0]} .card").first).to_be_visible()
    assert not is_hacked(page)
    assert page.locator("img").count() == 1  # the logo


def test_hostile_text_appears_as_it_is(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latent/3")
    context = page.locator("#view-latent .text").first
    expect(context).to_contain_text(HOSTILE[0] + HOSTILE[1] + HOSTILE[2])
    expect(context).to_contain_text("&lt;&#60;")
    expect(context).to_contain_text("U+202E")  # an override of the direction of text is spelled out
    expect(context).to_contain_text("↵↵")
    expect(page.locator(".caption strong").first).to_have_text("<b>hostile title</b>")
    page.goto(page.url.replace("#latent/3", "#latents"))
    page.locator("#search").fill("<script>")
    expect(page.locator("#rows mark").first).to_contain_text("<script>")
    assert not is_hacked(page)


def test_the_policy_forbids_scripts_in_the_page_itself(report: Path, chromium: Browser) -> None:
    page = chromium.new_page()  # not open_report, which fails on what the refusal logs
    page.goto((report / "index.html").as_uri())
    refused = page.evaluate(
        """() => new Promise((resolve) => {
            document.onsecuritypolicyviolation = (event) => resolve(event.effectiveDirective);
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
        })"""
    )
    assert refused == "script-src-elem"
    assert not is_hacked(page)
    page.close()


def test_the_heat_map_shows_labels_latents_and_values(labelled_report: Path, open_report: Open) -> None:
    page = open_report(labelled_report, "#heatmap")
    expect(page.locator(".heat tbody th")).to_have_count(8)
    expect(page.locator(".heat tbody th").last).to_have_text("AI assistant")
    page.locator(".heat tbody td a", has_text=re.compile(r"\d")).first.hover()
    expect(page.locator("#tip")).to_contain_text(re.compile(r"cat\s*latent \d+: [\d.]+"))
    page.get_by_text("Shade overall").click()
    page.locator(".heat tbody td a", has_text=re.compile(r"\d")).first.click()
    expect(page.locator("#view-latent h1")).to_be_visible()


def test_a_report_on_rows_of_ones_own_shows_their_labels(labelled_report: Path, open_report: Open) -> None:
    page = open_report(labelled_report, "#latents")
    expect(page.locator("#rows .peak").first).to_have_text(re.compile("cat|dog|robot|AI"))
    expect(page.locator("thead .c-promotes")).to_have_text("Fires on")
    page.locator("#rows tr").first.click()
    expect(page.get_by_role("heading", name="Strongest rows")).to_be_visible()
    expect(page.locator("#view-latent .caption").first).to_have_text(re.compile(r"^row \d+$"))


def test_dark_mode_is_dark_and_readable(report: Path, open_report: Open) -> None:
    page = open_report(report, "#latent/7", scheme="dark")
    expect(page.locator("#view-latent .text").first).to_be_visible()
    colours = "element => [getComputedStyle(document.body).backgroundColor, getComputedStyle(element).color]"
    ground, text = page.locator("#view-latent .text").first.evaluate(colours)
    assert contrast(ground, text) > 12
    assert luminance(ground) < 0.02


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [1280, 1024, 800])
@pytest.mark.parametrize("place", ["#overview", "#latents", "#latent/3", "#latent/7", "#setup"])
def test_nothing_overflows_sideways(report: Path, open_report: Open, place: str, width: int) -> None:
    page = open_report(report, place, width=width)
    expect(page.locator(f"#view-{place[1:].split('/')[0]} .card").last).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_the_heat_map_does_not_overflow_either(labelled_report: Path, open_report: Open) -> None:
    page = open_report(labelled_report, "#heatmap", width=1024)
    expect(page.locator(".heat")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_a_missing_file_is_said_not_to_load(stages: Stages, tmp_path: Path, chromium: Browser) -> None:
    folder = stages.render(tmp_path / "report")
    (folder / "data/latents-00001.js").unlink()
    page = chromium.new_page()
    page.goto(f"{(folder / 'index.html').as_uri()}#latent/70")
    expect(page.get_by_role("alert")).to_contain_text("data/latents-00001.js could not be loaded")
    page.close()
