"""The password of a Prefect server: which are taken, how a browser gets it, and how a server that refuses it is told."""

import asyncio
import contextlib
import os
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from flows import home, password
from flows.guard import ENTRANCE, Guard, entrance
from flows.proxies import spare_loopback
from tasks.errors import InputError
from tests.flows.conftest import away_from_loops


@contextlib.contextmanager
def answering(status: int, body: str, kind: str = "application/json") -> Iterator[str]:
    """A server that answers everything with this; its API's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def test_a_server_that_tells_its_version_is_welcome() -> None:
    with answering(200, '"3.8.8"') as api:
        password.require_welcome(api, "--server")


@pytest.mark.parametrize(
    "status, body, kind, said",
    [
        (401, "{}", "application/json", "wants a password"),
        (
            403,
            "This server answers at http://127.0.0.1:1 only.\n",
            "text/plain; charset=utf-8",
            r"403 \(.*http://127\.0\.0\.1:1 ",
        ),
        (404, "<html>", "text/html", "HTTP 404. .* ends in /api"),
        (500, "{}", "application/json", "HTTP 500. See that server's log"),
        (200, "<!doctype html>", "text/html", "no Prefect server's API. .* ends in /api"),
        (200, "[]", "application/json", "no Prefect server's API"),
        (200, "", "application/json", "no Prefect server's API"),
    ],
)
def test_what_answers_otherwise_is_told_in_a_sentence(status: int, body: str, kind: str, said: str) -> None:
    with answering(status, body, kind) as api, pytest.raises(InputError, match=said) as refused:
        password.require_welcome(api, "--server")
    assert "\n" not in str(refused.value)


def test_a_proxy_is_not_asked_for_this_machines_own_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "_opener", None)  # which keeps the proxies that were set when it was first used
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intern.example")
    monkeypatch.setenv("no_proxy", "")
    spare_loopback("http://prefect.example/api")
    with answering(200, '"3.8.8"') as api:
        with pytest.raises(InputError, match="no Prefect server answers"):
            password.require_welcome(api, "--server")
        spare_loopback(api)
        spare_loopback(api)
        password.require_welcome(api, "--server")
    assert {os.environ["NO_PROXY"], os.environ["no_proxy"]} == {"intern.example,127.0.0.1,localhost"}


def test_an_address_of_nonsense_spares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    for address in ("http://[x/api", "", "127.0.0.1"):
        spare_loopback(address)


@pytest.mark.parametrize("chosen", ["saemill:pä", "saemill:пароль", "saemill:a\nb"])
def test_a_password_that_prefect_could_not_compare_is_refused(
    chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(home.HOME, str(tmp_path))
    monkeypatch.setenv(password.SERVER, chosen)
    with pytest.raises(InputError, match=f"{password.SERVER} holds a password with other letters") as refused:
        password.own()
    assert chosen not in str(refused.value)
    monkeypatch.setenv(password.SERVER, "a:%#@?")
    assert password.own() == "a:%#@?"


@pytest.mark.parametrize("chosen", ["saemill:x", "me:50%", "me:a#b", "me:a b?c&d/e@f+g"])
def test_the_link_that_lets_a_browser_in_carries_any_password(chosen: str) -> None:
    link = entrance("http://127.0.0.1:4200", chosen)
    assert unquote(urlsplit(link).fragment, errors="strict") == chosen, "as decodeURIComponent reads it"
    assert set("%#@?& ") & set(link.replace(f"{ENTRANCE}#", "").replace("%", "")) == set()


def test_a_link_that_was_clicked_on_another_page_is_answered_with_what_to_do() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def never(*given: Any) -> Any:
        raise AssertionError

    headers = [(b"host", b"127.0.0.1:4200"), (b"sec-fetch-site", b"cross-site")]
    scope = {"type": "http", "method": "GET", "path": ENTRANCE, "headers": headers}
    away_from_loops(lambda: asyncio.run(Guard(never, "127.0.0.1:4200")(scope, never, send)))
    assert sent[0]["status"] == 403
    assert b"Paste the address into the address bar." in sent[1]["body"]
