"""What stands in for a Prefect server where only what it is sent matters."""

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4


class RecordingApi(ThreadingHTTPServer):
    """Answers as the API of a Prefect server with the deployments ``there``, and keeps what it is sent of any."""

    def __init__(self, there: Iterable[str] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/api"
        self.there = set(there)
        self.created: dict[str, dict[str, Any]] = {}
        """The deployments that it was told to create, by name."""
        self.changed: list[dict[str, Any]] = []
        """What it was told to change of those that it has."""
        self.automations: list[str] = []
        """The names of the automations that it was told to create."""


class _Handler(BaseHTTPRequestHandler):
    server: RecordingApi

    def do_GET(self) -> None:
        if self.path == "/api/admin/version":
            return self._answer(200, "3.8.8")
        name = self.path.removeprefix("/api/deployments/name/")
        if name in self.server.there:
            return self._answer(200, {"id": str(uuid4()), "flow_id": str(uuid4()), "name": name.partition("/")[2]})
        return self._answer(404, {})  # as of a server without tokens against CSRF, too

    def do_POST(self) -> None:
        sent = self._sent()
        if self.path == "/api/deployments/":
            self.server.created[sent["name"]] = sent
        if self.path == "/api/automations/filter":
            return self._answer(200, [])
        if self.path == "/api/automations/":
            self.server.automations.append(sent["name"])
        return self._answer(201, {"id": str(uuid4())})

    def do_PATCH(self) -> None:
        self.server.changed.append(self._sent())
        self._answer(200, {})

    def do_DELETE(self) -> None:
        self._answer(404, {})  # as of a server without automations

    def _sent(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def recording(there: Iterable[str] = ()) -> Iterator[RecordingApi]:
    """Such an API on loopback, until the block ends."""
    with RecordingApi(there) as api:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        try:
            yield api
        finally:
            api.shutdown()
