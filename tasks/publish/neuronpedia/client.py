"""Neuronpedia's HTTP interface, as far as an upload needs it: what was sent is told apart from what may have been done."""

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from tasks.errors import InputError, SaemillError

SITE = "https://www.neuronpedia.org"
KEY, KEY_FILE = "NEURONPEDIA_API_KEY", "NEURONPEDIA_API_KEY_FILE"
TIMEOUT_S = 300.0
"""Longer than the site's host lets a call run."""
TRIES = 10
_LONGEST_WAIT_S = 60.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_SAID = 300


class NoAnswerError(SaemillError):
    """The call may have been done or not: the connection broke, or the server failed in its midst."""


class RefusedError(SaemillError):
    """The server has looked at the call and did nothing."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status
        self.said = said


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and the key would go to another host."""

    @override
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class NeuronpediaClient:
    """One server and one user's key, which is in no text that this makes."""

    base: str
    """Scheme, host and port."""
    key: str
    sleep: Callable[[float], None] = time.sleep

    def post(self, path: str, body: bytes, before: Callable[[], None] = lambda: None) -> Any:
        """The answer of one call; waits and calls again where the server says that there were too many.

        Args:
            path: below ``/api``.
            body: JSON.
            before: done each time that the call is sent, as one that waited is sent long after it was first sent.

        Raises:
            NoAnswerError: nobody knows what came of it.
            RefusedError: nothing came of it.
        """
        for attempt in range(TRIES):
            before()
            try:
                return self._once("POST", path, body)
            except RefusedError as error:
                if error.status != http.client.TOO_MANY_REQUESTS or attempt == TRIES - 1:
                    raise
                self.sleep(wait_s(attempt))
        raise AssertionError

    def read(self, path: str, body: bytes | None = None) -> Any:
        """The answer of a call that changes nothing, so it is given until there is one; None where there is no such thing.

        Raises:
            SaemillError: the server stays away.
            RefusedError: it refuses.
        """
        for attempt in range(TRIES):
            try:
                return self._once("GET", path, None) if body is None else self.post(path, body)
            except NoAnswerError as error:
                if attempt == TRIES - 1:
                    raise SaemillError(
                        f"{self.base} gives no answer ({error}). The same command goes on from here."
                    ) from None
            except RefusedError as error:
                if error.status == http.client.NOT_FOUND:
                    return None
                if error.status != http.client.TOO_MANY_REQUESTS:
                    raise
            self.sleep(wait_s(attempt))
        raise SaemillError(f"{self.base} says that there are too many calls. The same command goes on from here.")

    def _once(self, method: str, path: str, body: bytes | None) -> Any:
        headers = {"X-Api-Key": self.key, "Content-Type": "application/json", "User-Agent": "saemill"}
        request = urllib.request.Request(f"{self.base}/api/{path}", body, headers, method=method)
        try:
            with self._opener().open(request, timeout=TIMEOUT_S) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            said = self._said(error)
            if error.code >= http.client.INTERNAL_SERVER_ERROR:
                raise NoAnswerError(f"{error.code}: {said}") from None
            raise RefusedError(error.code, said) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoAnswerError(self._without_key(str(error) or type(error).__name__)) from None

    def _opener(self) -> urllib.request.OpenerDirector:
        """Plain HTTP is for this machine alone: a proxy would get the key in plain text."""
        direct = [urllib.request.ProxyHandler({})] if self.base.startswith("http:") else []
        return urllib.request.build_opener(_NoRedirects, *direct)

    def _said(self, error: urllib.error.HTTPError) -> str:
        try:
            data = error.read(10_000).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return self._without_key(str(error.reason))
        try:
            found = json.loads(data)
            text = str(found.get("error") or found.get("message") or found)
        except (ValueError, AttributeError):
            text = data
        return " ".join(self._without_key(text).split())[:_SAID] or self._without_key(str(error.reason))

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "***")


def wait_s(attempt: int) -> float:
    """1, 2, 4 ... seconds, up to a minute."""
    return min(2.0**attempt, _LONGEST_WAIT_S)


def client(where: str) -> NeuronpediaClient:
    """The server that ``--push neuronpedia[:URL]`` names, with the user's key from the environment.

    Raises:
        InputError: there is no key, the address is none, or the key would go over the net in plain text.
    """
    base = (where or SITE).rstrip("/")
    if "@" in base:
        raise InputError(
            "--push neuronpedia: takes an address without a user or password; the key comes from the environment."
        )
    try:
        parts = urllib.parse.urlsplit(base)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"--push neuronpedia:{where} is no address ({error}).") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path:
        raise InputError(f"--push neuronpedia:{where} is no address; neuronpedia:http://localhost:3000 would be one.")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise InputError(
            f"{base} would take the API key over the net in plain text; use https, or a server on this machine."
        )
    return NeuronpediaClient(base, _key())


def _key() -> str:
    file = os.environ.get(KEY_FILE)
    try:
        found = (Path(file).read_text() if file else os.environ.get(KEY, "")).strip()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{KEY_FILE} names a file that cannot be read; put the API key there.") from None
    if not found or not found.isascii() or not found.isprintable():
        raise InputError(
            f"Neuronpedia's API key is missing or holds what no key has: put it into the variable {KEY}, or the name of a "
            f"file that holds it into {KEY_FILE}."
        )
    return found
