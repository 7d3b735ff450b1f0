"""What stands before Prefect's server: it answers only at its own address, and only to pages of that address.

A browser sends requests for whatever page is open in it. Prefect answers them all: any Host, so a name that an attacker
points at 127.0.0.1 (DNS rebinding) reaches it, and any Origin. Prefect's own password (``flows/password.py``) is the lock;
this is the wall around it. The UI keeps the password in its origin's localStorage, which, unlike a cookie, no other port of
the same host is ever sent.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ENTRANCE = "/saemill"
"""Opened as ``/saemill#<password>``, it lets a browser in. A browser keeps what stands behind # to itself."""
_ELSEWHERE = "Pages of other addresses may not use this server."
_ENTRANCE_PAGE = """<!doctype html><meta charset="utf-8"><title>saemill</title><script>
const password = decodeURIComponent(location.hash.slice(1));
if (password) localStorage.setItem("prefect-password", btoa(password));  // where both of Prefect's UIs look for it
location.replace("/");
</script>"""
_HEADERS = [
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
]


def entrance(root: str, password: str) -> str:
    """The address that lets a browser in to the server at ``root``."""
    return f"{root}{ENTRANCE}#{quote(password, safe='')}"


class Guard:
    """An ASGI application that hands on to another what comes from the own address, and refuses the rest."""

    def __init__(self, app: App, host: str) -> None:
        self._app = app
        self._host = host
        """As browsers write it in Host, such as '127.0.0.1:4200'."""
        self._aliases = ["localhost" + host.removeprefix("127.0.0.1")] if host.startswith("127.0.0.1") else []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = _Headers(scope)
        if headers.all(b"host") in [[alias] for alias in self._aliases] and _opens_a_page(scope, headers):
            await _redirect(send, f"http://{self._host}", scope)
            return
        reason = self._refusal(scope, headers)
        if reason is not None:
            await _refuse(scope, receive, send, reason)
        elif scope["type"] == "http" and scope["path"] == ENTRANCE:
            await _respond(send, 200, "text/html; charset=utf-8", _ENTRANCE_PAGE, [(b"cache-control", b"no-store")])
        else:
            await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Message, headers: "_Headers") -> str | None:
        """Why a request is refused; None where it may pass."""
        if headers.all(b"host") != [self._host]:
            return f"This server answers at http://{self._host} only."
        if any(origin != f"http://{self._host}" for origin in headers.all(b"origin")):
            return _ELSEWHERE
        from_elsewhere = any(site not in ("same-origin", "none") for site in headers.all(b"sec-fetch-site"))
        if from_elsewhere and scope.get("path") == ENTRANCE:  # such as a link that was clicked in a web terminal
            return f"{_ELSEWHERE} Paste the address into the address bar."
        return _ELSEWHERE if from_elsewhere and not _opens_a_page(scope, headers) else None


class _Headers:
    def __init__(self, scope: Message) -> None:
        self._pairs: list[tuple[bytes, bytes]] = scope["headers"]

    def all(self, name: bytes) -> list[str]:
        """Every value given for a header whose name is in lower case."""
        return [value.decode("latin-1").strip() for key, value in self._pairs if key.lower() == name]


def _opens_a_page(scope: Message, headers: _Headers) -> bool:
    """Whether someone follows a link to the UI: a page of its own, unframed; the page with the link sees nothing."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    path = scope["path"]
    if path == "/api" or path.startswith("/api/"):
        return False
    return headers.all(b"sec-fetch-mode") in ([], ["navigate"]) and headers.all(b"sec-fetch-dest") in ([], ["document"])


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
        await send(message)

    return sending


async def _refuse(scope: Message, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": reason})  # before it is accepted: HTTP 403
    else:
        await _respond(send, 403, "text/plain; charset=utf-8", reason + "\n")


async def _redirect(send: Send, root: str, scope: Message) -> None:
    path = scope.get("raw_path") or b"/"
    query = b"?" + scope["query_string"] if scope.get("query_string") else b""
    # "//x" after the root would still be of this root: it stands behind a host.
    await _respond(send, 307, "text/plain", "", [(b"location", root.encode() + path + query)])


async def _respond(send: Send, status: int, kind: str, body: str, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    content = body.encode()
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode()), *(extra or []), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
