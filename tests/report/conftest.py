"""Stage directories, reports on them, and a browser that may not leave the disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request

from tests.report.stages import Stages, labelled_stages, language_model_stages

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """A finished run on text; not to be changed."""
    return language_model_stages(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """A finished run on labelled activations; not to be changed."""
    return labelled_stages(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="session")
def report(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on ``stages``."""
    return stages.render(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def labelled_report(labelled: Stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on ``labelled``."""
    return labelled.render(tmp_path_factory.mktemp("labelled-report"))


@pytest.fixture
def open_report(chromium: Browser) -> Iterator[Open]:
    """Open a report from disk; fails at the end on any console error, or request for anything but a file."""
    contexts, troubles = [], []

    def refuse_network(request: Request) -> None:
        if not request.url.startswith("file://"):
            troubles.append(f"request for {request.url}")

    def open_(folder: Path, place: str = "", width: int = 1280, height: int = 800, scheme: str = "light") -> Page:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light", offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("request", refuse_network)
        page.goto(f"{(folder / 'index.html').as_uri()}{place}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []
