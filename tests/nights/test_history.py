"""The page of nights, from their records."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tasks.registry.nights import NightDone
from tasks.report.history import history_page, write

PLACE = "reports/demo-nights"
FIRST = datetime(2026, 11, 1, 2, 17, tzinfo=UTC)


def night(version: int, **more: Any) -> dict[str, Any]:
    shares = {"same": 0.5, "drifted": 0.25, "split": 0.0, "died": 0.25, "merged": 0.0, "born": 0.25} if version > 1 else {}
    usual: dict[str, Any] = {
        "by": "ada@engine",
        "when": FIRST + timedelta(days=version),
        "version": version,
        "champion": version - 1 or None,
        "activations": f"activations/demo-{version:012}",
        "scores": f"scores/demo-{version:012}",
        "report": f"reports/demo-{version:012}",
        "matched": f"reports/demo-latents-{version - 1}-to-{version}" if version > 1 else None,
        "tokens": 100_000 * version,
        "new_tokens": 100_000,
        "seconds": 75.0,
        "metrics": {"fvu": 0.1 - 0.01 * version, "l0": 32.0, "dead_fraction": 0.0},
        "verdict": "PROMOTE" if version > 1 else None,
        "shares": shares,
        "corpus_drift": 0.01 * version if version > 1 else None,
        "stored_bytes": 10**9 * version,
    }
    return NightDone(**{**usual, **more}).model_dump(mode="json")


def test_a_night_is_a_row_the_newest_first_with_links_that_lead_to_its_pages() -> None:
    html = history_page("demo", 2, [night(1), night(2, promoted=True, reason="It is <better>.")], PLACE).decode()
    assert html.index("2026-11-03 02:17") < html.index("2026-11-02 02:17")
    assert 'href="../demo-000000000002/index.html"' in html
    assert 'href="../demo-latents-1-to-2/index.html"' in html
    assert html.count('<span class="crown">champion</span>') == 1
    assert "The champion is demo@2. 2 nights, 1 promoted by themselves." in html
    assert "It is &lt;better&gt;." in html


def test_a_figure_that_fewer_than_two_nights_have_is_no_chart() -> None:
    one, three = (history_page("demo", None, [night(n + 1) for n in range(count)], PLACE).decode() for count in (1, 3))
    assert "<polyline" not in one
    assert "There is no champion yet. 1 night, 0 promoted by themselves." in one
    assert three.count("<polyline") == 5, "of rate drift nothing is known"
    assert "NaN" not in three


def test_equal_figures_are_a_level_line() -> None:
    html = history_page("demo", 1, [night(1), night(2), night(3)], PLACE).decode()
    (line,) = [part for part in html.split("<figure") if 'aria-label="L0 by night"' in part]
    points = line.split('points="')[1].split('"')[0].split()
    assert [point.split(",")[1] for point in points] == ["67.0"] * 3


@pytest.mark.browser
def test_the_page_opens_from_disk_with_all_that_it_loads(tmp_path: Path, chromium: Browser) -> None:
    failed: list[str] = []
    page = chromium.new_page(viewport={"width": 1300, "height": 1100})
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    place = write("demo", 3, [night(n) for n in (1, 2, 3)], str(tmp_path))
    write("demo", 4, [night(n) for n in (1, 2, 3, 4)], str(tmp_path))
    page.goto(f"file://{place}/index.html")
    assert page.locator("tbody tr").count() == 4
    assert page.locator("svg.by-night").count() == 5
    box = page.locator("svg.by-night").first.bounding_box()
    assert box is not None
    assert box["width"] > 200
    page.close()
    assert failed == []
