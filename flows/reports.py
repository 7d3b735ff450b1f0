"""Finished reports over HTTP on loopback, so that a link in Prefect's UI opens them: browsers refuse file:// links there."""

import contextlib
import hmac
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from typing_extensions import override

LINKS = "SAEMILL_REPORTS_AT"
"""Environment variable through which flow runs learn of the server: '<folder>=<URL>'."""


class _Handler(SimpleHTTPRequestHandler):
    """Serves the files of reports below a secret first part of the path, and nothing else that lies or leads there."""

    def __init__(self, *given: Any, key: str, directory: str) -> None:
        self._key = key
        super().__init__(*given, directory=directory)  # which answers the request

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: requests are no news."""

    @override
    def end_headers(self) -> None:
        """Let nothing in a report, whose text comes from corpora, reach beyond the report's own site, nor others into it."""
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "same-origin")  # the key is in the path
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "SAMEORIGIN")
        super().end_headers()

    @override
    def send_head(self) -> Any:
        """The file that is asked for, if it may be shown."""
        if not self._from_own_address():
            self.send_error(HTTPStatus.FORBIDDEN, "Reports are shown at this server's own address only")
        elif not (self._shows_the_key() and self._may_be_shown()):
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            return super().send_head()
        return None

    @override
    def list_directory(self, path: Any) -> None:
        """No lists of what there is."""
        self.send_error(HTTPStatus.NOT_FOUND)

    @override
    def translate_path(self, path: str) -> str:
        """The file that a path behind the key names."""
        return super().translate_path(path[len(self._key) + 1 :])

    def _shows_the_key(self) -> bool:
        """Whether a path is of one who was given a link: any user of this machine can ask."""
        first, slash, _ = self.path.removeprefix("/").partition("/")
        return bool(slash) and hmac.compare_digest(first.encode(), self._key.encode())

    def _from_own_address(self) -> bool:
        """Whether Host is ours, whatever name resolves to it (DNS rebinding), and no page of another origin asks.

        Following a link is another thing: Prefect's UI, at another port, has links to reports.
        """
        own = f"127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined] # it is an HTTPServer
        follows = self.headers.get("Sec-Fetch-Mode") == "navigate" and self.headers.get("Sec-Fetch-Dest") == "document"
        near = self.headers.get("Sec-Fetch-Site") in (None, "none", "same-origin")
        return (
            self.headers.get_all("Host") == [own]
            and self.headers.get("Origin") in (None, f"http://{own}")
            and (near or follows)
        )

    def _may_be_shown(self) -> bool:
        """Whether a path stays in the folder, links followed, and no part of it is hidden."""
        asked, folder = Path(self.translate_path(self.path)), Path(self.directory)
        try:
            real, root = asked.resolve(strict=True), folder.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # not there, a NUL, a ring of links
            return False
        if not (asked.is_relative_to(folder) and real.is_relative_to(root) and (real.is_file() or real.is_dir())):
            return False
        return not any(part.startswith(".") for part in (*asked.relative_to(folder).parts, *real.relative_to(root).parts))


def new_key() -> str:
    """What nobody guesses, without what has a meaning in a path or in ``LINKS``."""
    return secrets.token_urlsafe(32)


@contextlib.contextmanager
def serving_reports(storage: str, port: int, key: str | None = None) -> Iterator[str | None]:
    """Serve the reports below a local storage root, at ``port`` or, if it is taken, any free one; yields the URL.

    Its path begins with ``key``, left out a new one, without which nobody is shown anything. Flow runs started by this
    process hear of it through the environment. None where storage is not a local folder.
    """
    if "://" in storage:
        yield None
        return
    folder = Path(storage, "reports")
    key = key or new_key()
    handler = partial(_Handler, key=key, directory=str(folder))
    with _listening(port, handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/{key}"
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
