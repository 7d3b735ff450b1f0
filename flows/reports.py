"""Finished reports over HTTP on loopback, so that a link in Prefect's UI opens them: browsers refuse file:// links there."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

LINKS = "SAEMILL_REPORTS_AT"
"""Environment variable through which flow runs learn of the server: '<folder>=<URL>'."""


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: requests are no news."""

    def end_headers(self) -> None:
        """Let nothing in a report, whose text comes from corpora, reach beyond the report's own site."""
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:")
        super().end_headers()


@contextlib.contextmanager
def serving_reports(storage: str, port: int) -> Iterator[str | None]:
    """Serve the reports below a local storage root, at ``port`` or, if it is taken, any free one; yields the URL.

    Flow runs started by this process hear of it through the environment. None where storage is not a local folder.
    """
    if "://" in storage:
        yield None
        return
    folder = Path(storage, "reports")
    handler = partial(_Handler, directory=str(folder))
    with _listening(port, handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        os.environ[LINKS] = f"{folder}={url}"
        threading.Thread(target=server.serve_forever, name="reports", daemon=True).start()
        yield url
        server.shutdown()


def _listening(port: int, handler: Callable[..., SimpleHTTPRequestHandler]) -> ThreadingHTTPServer:
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        return ThreadingHTTPServer(("127.0.0.1", 0), handler)


def link_to(report: str) -> str:
    """What a browser can open: the served address of a report, else its file, else its URI as it is."""
    folder, _, url = os.environ.get(LINKS, "").rpartition("=")
    if folder and Path(report).is_relative_to(folder):
        return f"{url}/{quote(str(Path(report).relative_to(folder)))}/index.html"
    return f"{report}/index.html" if "://" in report else Path(report, "index.html").as_uri()
