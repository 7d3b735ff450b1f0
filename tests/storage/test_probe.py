import http.server
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

from flows.preflight import check_storage
from tasks.storage.objects import open_store
from tasks.storage.probe import require_create_only
from tests.patience import PATIENCE_S

LISTING = b"<ListBucketResult><Name>lake</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"


class Careless(http.server.BaseHTTPRequestHandler):
    """An S3 server that knows nothing of conditions: a PUT always replaces."""

    protocol_version = "HTTP/1.1"  # only then is a client that waits for "100 Continue" told to go on
    stored: dict[str, bytes]

    def do_PUT(self) -> None:
        self.stored[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def do_GET(self) -> None:
        listing = "?" in self.path or self.path.count("/") == 1
        self._answer(200, LISTING if listing else self.stored[self.path])

    def do_DELETE(self) -> None:
        self.stored.pop(self.path, None)
        self._answer(204)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def careless() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Endpoint of a careless server, and what it has stored."""

    class Handler(Careless):
        stored: dict[str, bytes] = {}  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", Handler.stored
        server.shutdown()


def test_a_server_that_ignores_create_only_puts_is_refused_by_name(careless: tuple[str, dict[str, bytes]]) -> None:
    endpoint, stored = careless
    script = "from flows.preflight import check_storage; check_storage('s3://lake/runs')"
    reach = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = os.environ | reach | {"AWS_ENDPOINT_URL": endpoint}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "InputError: storage is 's3://lake/runs'" in last
    assert f"{endpoint}, ignores If-None-Match: * on PUT" in last
    assert stored == {}, "the probe was left there"


class Narrow(Careless):
    """A server whose credentials may list what is below mine/ and nothing else."""

    def do_GET(self) -> None:
        asked = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        allowed = asked.get("prefix", [""])[0].startswith("mine/") and asked.get("max-keys") == ["1"]
        self._answer(200, LISTING) if allowed else self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")


@pytest.mark.parametrize(
    "uri, name, well",
    [
        ("s3://lake/mine", "storage", True),
        ("s3://lake/mine/", "text.source", True),
        ("s3://lake/mine/*/a.txt", "text.source", True),
        ("s3://lake/mine/a.npy", "activations.source", True),
        ("s3://lake/theirs", "storage", False),
        ("s3://lake", "storage", False),
    ],
)
def test_a_place_is_reachable_with_credentials_for_that_place_alone(uri: str, name: str, well: bool) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Narrow) as server:
        threading.Thread(target=server.serve_forever).start()
        script = f"from tasks.storage.objects import backend_of; backend_of({uri!r}).require_reachable({uri!r}, {name!r})"
        reach = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        environment = os.environ | reach | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        server.shutdown()
    assert (done.returncode == 0) == well, done.stderr
    assert well or f"InputError: {name} is '{uri}' but bucket 'lake' cannot be reached" in done.stderr


@pytest.mark.s3
def test_a_server_that_honours_them_is_taken_and_nothing_is_left_there(s3: str) -> None:
    require_create_only.cache_clear()
    check_storage(f"{s3}/probed")
    assert list(open_store(f"{s3}/probed").list()) == []
    assert require_create_only.cache_info().currsize == 1
