"""Nobody but its user gets into what `saemill serve` starts: other pages, other names, other users of the machine."""

import contextlib
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from flows import password
from tests.conftest import ROOT, listening_at
from tests.flows.conftest import TOY, Served

pytestmark = pytest.mark.prefect

ATTACK = """async ([root, flow, body]) => {
  const tried = {};
  const attempt = async (name, act) => { try { tried[name] = await act(); } catch (error) { tried[name] = "blocked"; } };
  const post = (path, options) => fetch(root + path, {method: "POST", body, ...options});
  await attempt("read", async () => (await fetch(root + "/api/flows/" + flow)).text());
  await attempt("read with cookies", async () => (await fetch(root + "/api/ui-settings", {credentials: "include"})).text());
  await attempt("filter", async () => (await post("/api/deployments/filter")).text());
  await attempt("json", async () => (await post("/api/flows/", {headers: {"content-type": "application/json"}})).text());
  await attempt("text", async () => (await post("/api/flows/", {headers: {"content-type": "text/plain"}})).text());
  await attempt("no content type", async () => (await post("/api/flows/", {body: new Blob([body])})).text());
  await attempt("no-cors", async () => (await post("/api/flows/", {mode: "no-cors", body: new Blob([body])})).type);
  await attempt("no-cors read", async () => (await (await fetch(root + "/ui-settings", {mode: "no-cors"})).text()));
  await attempt("no-cors with the password guessed", async () =>
    (await post("/api/flows/", {mode: "no-cors", headers: {authorization: "Basic c2FlbWlsbDp4"}})).type);
  await attempt("beacon", async () => { navigator.sendBeacon(root + "/api/flows/", new Blob([body])); return "sent"; });
  const load = (kind, path) => new Promise((done) => {
    const element = document.createElement(kind);
    element.onload = () => done("loaded");
    element.onerror = () => done("blocked");
    element.src = root + path;
    document.body.append(element);
  });
  await attempt("script", () => load("script", "/ui-settings"));
  await attempt("image", () => load("img", "/api/health"));
  for (const path of ["/api/events/in", "/api/events/out", "/api/logs/out"])
    await attempt("socket " + path, () => new Promise((done) => {
      const socket = new WebSocket(root.replace("http", "ws") + path, "prefect");
      socket.onopen = () => done("opened");
      socket.onerror = () => done("blocked");
    }));
  await attempt("form", () => new Promise((done) => {
    const form = document.createElement("form");
    form.method = "post"; form.enctype = "text/plain"; form.action = root + "/api/flows/"; form.target = "hole";
    const field = document.createElement("input");
    field.name = body.slice(0, -1) + ', "tags": ["'; field.value = '"]}';  // makes JSON of a text/plain form
    form.append(field);
    const hole = document.createElement("iframe");
    hole.name = "hole"; hole.onload = () => done("sent");
    document.body.append(hole, form);
    form.submit();
  }));
  await attempt("frame", () => new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.onload = () => { try { done(frame.contentDocument.body.innerText); } catch (error) { done("blocked"); } };
    frame.src = root + "/";
    document.body.append(frame);
  }));
  return tried;
}"""


@contextlib.contextmanager
def foreign_page(folder: Path) -> Iterator[str]:
    """A page on another port of the same host: what Chromium calls the same site, and not the same origin."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    (folder / "page.html").write_text("<!doctype html><title>foreign</title><body>")
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/page.html"
        server.shutdown()


def flows(served: Served) -> set[str]:
    return {flow["name"] for flow in served.call("POST", "flows/filter", {})}


@pytest.mark.browser
def test_a_page_of_another_origin_can_neither_read_nor_change_nor_start_anything(
    served: Served, page: Page, tmp_path: Path
) -> None:
    before = flows(served)
    unseen = {"no-cors": "opaque", "no-cors with the password guessed": "opaque", "beacon": "sent", "form": "sent"}
    served.enter(page)
    for same in ("127.0.0.1", "localhost"):  # the same site, and another
        with foreign_page(tmp_path) as address:
            page.goto(address.replace("127.0.0.1", same))
            body = json.dumps({"name": "intruder"})
            flow = served.deployment("pipeline")["flow_id"]
            tried = page.evaluate(ATTACK, [served.url, flow, body])
            assert {name: what for name, what in tried.items() if what not in ("blocked", unseen.get(name))} == {}
            assert len(tried) == 17
    assert flows(served) == before

    page.goto(f"{served.url}/deployments")  # and the UI at its own address works
    page.get_by_role("link", name="pipeline").first.wait_for()
    made = page.evaluate("""async () => (await fetch("/api/flows/", {
        method: "POST", body: '{"name": "by-its-own-page"}',
        headers: {"content-type": "application/json", authorization: `Basic ${localStorage["prefect-password"]}`},
    })).status""")
    assert made == 201, "what the foreign page sent was well formed"


def answer(served: Served, method: str, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.putrequest(method, path, skip_host="host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    with contextlib.closing(connection):
        connection.endheaders()
        return connection.getresponse().status


def test_other_names_origins_and_whoever_has_no_password_are_refused(served: Served) -> None:
    basic = {"authorization": served.authorization}
    assert answer(served, "GET", "/api/admin/version", **basic) == 200
    assert answer(served, "GET", "/api/admin/version") == 401
    assert answer(served, "GET", "/api/admin/version", authorization="Basic c2FlbWlsbDp4") == 401
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1", f"127.0.0.1:{served.port}.", "", "127.0.0.1:x"):
        assert answer(served, "GET", "/api/admin/version", host=host, **basic) in (400, 403), host
        assert answer(served, "GET", "/", host=host) in (400, 403), host
    for origin in (
        "null",
        f"http://localhost:{served.port}",
        f"https://127.0.0.1:{served.port}",
        served.url + ".evil.example",
    ):
        assert answer(served, "POST", "/api/flows/filter", origin=origin, **basic) == 403, origin
        assert answer(served, "OPTIONS", "/api/flows/filter", origin=origin, access_control_request_method="POST") == 403
    for path in ("/api/flows/filter", "/api/admin/database/clear", "/api/variables/name/x/health", "//api/flows/count"):
        assert answer(served, "POST", path) in (401, 403, 404, 405), path


def test_the_password_is_for_its_owner_only_and_in_no_argument(served: Served) -> None:
    home = served.folder / "prefect"
    readable = [path for path in (home, *home.rglob("*")) if path.lstat().st_mode & 0o077 and path.parent == home]
    assert readable == []
    family = [served.process, *served.process.children(recursive=True)]
    assert len(family) >= 2
    assert [process for process in family if served.password in " ".join(process.cmdline())] == []


def test_a_run_without_the_password_is_refused_in_a_sentence(served: Served, tmp_path: Path) -> None:
    environment = {**served.environment, "PREFECT_HOME": str(tmp_path), "PREFECT_API_AUTH_STRING": "saemill:wrong"}
    command = [sys.executable, "-m", "flows.cli", "harvest", TOY, "--storage", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert "wants a password. Set PREFECT_API_AUTH_STRING" in sentence


def test_a_password_that_others_could_read_or_that_is_empty_is_not_used_again(tmp_path: Path) -> None:
    file = tmp_path / "password"
    first = password.kept_or_new(file)
    password.keep(first, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert password.kept_or_new(file) == first
    file.chmod(0o640)
    assert password.kept_or_new(file) != first
    file.chmod(0o600)
    file.write_text("\n")
    assert len(password.kept_or_new(file)) > 40


def test_no_process_of_serve_listens_but_on_loopback(served: Served) -> None:
    family = [served.process, *served.process.children(recursive=True)]
    assert listening_at(family) == {"127.0.0.1"}
