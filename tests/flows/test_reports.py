"""The server of reports shows reports, and nothing else, to pages of its own address."""

import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.reports import LINKS, link_to, serving_reports
from tests.conftest import free_port


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(LINKS, "")  # the server sets it; this has it put back
    report = tmp_path / "reports/toy-1"
    (report / "latents").mkdir(parents=True)
    (report / "index.html").write_text("the report")
    (report / "latents/0.js").write_text("latent 0")
    (report / "latents/fifo").symlink_to("/dev/zero")
    (report / ".hidden").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    (report / "out").symlink_to(tmp_path / "secret")
    (report / "up").symlink_to(tmp_path)
    (report / "seen").symlink_to(report / ".hidden")
    (report / "ring").symlink_to(report / "ring")
    os.mkfifo(report / "pipe")
    with serving_reports(str(tmp_path), free_port()) as found:
        assert found is not None
        yield found


def get(url: str, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.putrequest("GET", urlsplit(url).path + path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_reports_are_shown_and_nothing_else(url: str, tmp_path: Path) -> None:
    assert link_to(str(tmp_path / "reports/toy-1")) == f"{url}/toy-1/index.html"
    assert get(url, "/toy-1/index.html") == (200, "the report")
    assert get(url, "/toy-1/") == (200, "the report")
    assert get(url, "/toy-1/latents/0.js?x#y") == (200, "latent 0")
    for path in (
        *("/", "/toy-1/latents/", "/toy-1/nothing", "/toy-1/.hidden", "/toy-1/out", "/toy-1/up/secret", "/toy-1/seen"),
        *("/toy-1/ring", "/toy-1/pipe", "/toy-1/latents/fifo", "/../secret", "/%2e%2e/secret", "/toy-1/%2ehidden"),
        *("/toy-1/index.html%00", "/%00", "/toy-1/index.html/", "/" + "a" * 5000, "/" + "a/" * 3000),
    ):
        status, body = get(url, path)
        assert status == 404, path
        assert "secret" not in body


def test_other_names_and_pages_of_other_origins_are_refused(url: str) -> None:
    own = urlsplit(url).netloc
    link = {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert get(url, "/toy-1/index.html", **link) == (200, "the report")
    assert get(url, "/toy-1/index.html", Origin=f"http://{own}", Sec_Fetch_Site="same-origin") == (200, "the report")
    for headers in (
        {"Host": "evil.example"},
        {"Host": own.replace("127.0.0.1", "evil.example")},
        {"Host": ""},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "script"},
        link | {"Sec_Fetch_Dest": "iframe"},
    ):
        assert get(url, "/toy-1/index.html", **headers)[0] == 403, headers


def test_whoever_was_given_no_link_is_shown_nothing(url: str) -> None:
    root, key = url.rsplit("/", 1)
    assert len(key) > 40
    for begin in (
        "",
        "/",
        f"/{key[:-1]}",
        f"/{key}x",
        f"/x/../{key}",
        f"/x/{key}",
        "/" + "x" * len(key),
        f"/?/{key}",
        "/%ff",
    ):
        status, body = get(root, f"{begin}/toy-1/index.html")
        assert status == 404, begin
        assert "the report" not in body
        assert key not in body
    assert get(root, f"/{key}")[0] == 404


def test_pages_of_a_report_find_their_folder_below_the_key(url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("GET", urlsplit(url).path + "/toy-1")
    answer = connection.getresponse()
    connection.close()
    assert (answer.status, answer.headers["Location"]) == (301, urlsplit(url).path + "/toy-1/")
    assert answer.headers["Referrer-Policy"] == "same-origin"


def test_links_are_the_same_after_a_restart_where_the_key_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LINKS, "")
    port = free_port()
    for _ in range(2):
        with serving_reports(str(tmp_path), port, "kept") as found:
            assert found == f"http://127.0.0.1:{port}/kept"
