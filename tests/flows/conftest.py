"""A real `saemill serve` on loopback, what its API says, and Debian's chromium to look at its pages."""

import base64
import contextlib
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from playwright.sync_api import Browser, Page

from flows.configurations import OFFERED
from tests.conftest import ROOT, free_port
from tests.patience import PATIENCE_S

R = TypeVar("R")
TOY = str(ROOT / "configs/toy.yaml")


class Served:
    """A `saemill serve` of the toy configuration in a process of its own, and its server's API."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "runs"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        """Start, and wait until both deployments are there."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment["PREFECT_HOME"] = str(self.folder / "prefect")
        common = ["--port", str(self.port), "--config", TOY, "--nightly", TOY, "--storage", str(self.storage)]
        with open(self.folder / "serve.log", "ab") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "flows.cli", "serve", *common, *options],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.wait(lambda: {"pipeline", "nightly"} <= {d["name"] for d in self.deployments()}, "the deployments")

    def stop(self, number: int = signal.SIGTERM) -> list[psutil.Process]:
        """Stop it; the processes that it left behind, which are killed then."""
        family = self.process.children(recursive=True)
        self.process.send_signal(number)
        try:
            self.process.wait(PATIENCE_S)
        finally:
            _, alive = psutil.wait_procs(family, timeout=10)
            for process in [*alive, self.process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        return alive

    def wait(self, ready: Callable[[], bool], what: str, timeout: float = PATIENCE_S) -> None:
        """Wait until something holds, and show the log where it never does."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError, FileNotFoundError):
                if ready():
                    return
            time.sleep(0.5)
        raise TimeoutError(f"waited {timeout} s for {what}:\n{self.log()}")

    def log(self) -> str:
        return (self.folder / "serve.log").read_text()[-6000:]

    @property
    def password(self) -> str:
        """What its API wants in PREFECT_API_AUTH_STRING."""
        return (self.folder / "prefect/password").read_text().strip()

    @property
    def authorization(self) -> str:
        """The header by which a client shows the password."""
        return f"Basic {base64.b64encode(self.password.encode()).decode()}"

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to be recorded there."""
        return {**os.environ, "PREFECT_API_URL": f"{self.url}/api", "PREFECT_API_AUTH_STRING": self.password}

    def enter(self, page: Page) -> None:
        """Let a browser in, as the link does that is printed at the start."""
        page.goto(f"{self.url}/saemill#{self.password}")
        page.wait_for_url(lambda url: "/saemill" not in url)
        page.get_by_role("link", name="Deployments").first.wait_for()  # leaving sooner, the UI forgets the password

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": self.authorization}
        request = urllib.request.Request(f"{self.url}/api/{path}", data=data, headers=headers, method=method)
        for attempts_left in reversed(range(20)):
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                # The server says so where its SQLite file is locked, having done nothing; Prefect's own clients try again.
                if error.code != 503 or not attempts_left:
                    raise
                time.sleep(1)
        raise AssertionError("unreachable")

    def deployments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("POST", "deployments/filter", {})
        return found

    def deployment(self, name: str) -> dict[str, Any]:
        (found,) = (deployment for deployment in self.deployments() if deployment["name"] == name)
        return found

    def start_run(self, name: str, parameters: dict[str, Any], **state: Any) -> str:
        body = {"parameters": parameters, "state": {"type": "SCHEDULED", **state}}
        run: str = self.call("POST", f"deployments/{self.deployment(name)['id']}/create_flow_run", body)["id"]
        return run

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        only = {"deployments": {"name": {"any_": [deployment]}}}
        found: list[dict[str, Any]] = self.call("POST", "flow_runs/filter", only)
        return found

    def scheduled_runs(self, deployment: str, state: str) -> list[dict[str, Any]]:
        """The runs that the server's own scheduler made and that are in this state."""
        return [run for run in self.runs(deployment) if run["auto_scheduled"] and run["state_type"] == state]

    def state(self, run: str) -> dict[str, Any]:
        state: dict[str, Any] = self.call("GET", f"flow_runs/{run}")["state"]
        return state

    def history(self, run: str) -> list[str]:
        """The types of all states that the run has been in, in order."""
        return [state["type"] for state in self.call("GET", f"flow_run_states/?flow_run_id={run}")]

    def wait_until_ended(self, run: str) -> dict[str, Any]:
        ends = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        self.wait(lambda: self.state(run)["type"] in ends, f"the end of run {run}")
        return self.state(run)


def away_from_loops(work: Callable[[], R]) -> R:
    """What ``work`` returns in a thread of its own: where a browser was driven before, this one's event loop runs."""
    context = copy_context()  # Prefect's settings, which may be a test's own
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(context.run, work).result()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    service = Served(tmp_path_factory.mktemp("served"))
    service.start()
    yield service
    service.stop()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    opened = chromium.new_page(viewport={"width": 1300, "height": 1000})
    opened.set_default_timeout(60_000)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def nothing_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a `serve` within a test tells its flow runs is gone after it."""
    monkeypatch.setenv(OFFERED, "")
    monkeypatch.delenv(OFFERED)
