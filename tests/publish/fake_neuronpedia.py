"""A server with Neuronpedia's rules for uploads (apps/webapp/app/api, ebb8426), which fails as servers and networks do.

Its rules are written out here once more, apart from those that saemill looks for. What it does is done whether or not
somebody is left to hear of it; features are never overwritten, and activations that come twice are there twice.
"""

import json
import math
import random
import re
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-np-secret-of-tests"
LARGEST_BODY = 4_500_000

Json = dict[str, Any]


@dataclass
class Troubles:
    """How often calls go wrong, each a share of those that write."""

    too_many: float = 0.0
    failed_before: float = 0.0
    failed_after: float = 0.0
    dropped_before: float = 0.0
    dropped_after: float = 0.0
    longest_s: float = 0.0
    """A call is at work for up to so long before anything of it is stored."""
    seed: int = 0


@dataclass
class State:
    """What the server has, and what it was asked."""

    troubles: Troubles
    models: dict[str, Json] = field(default_factory=dict)
    sets: dict[tuple[str, str], Json] = field(default_factory=dict)
    features: dict[tuple[str, str, int], Json] = field(default_factory=dict)
    activations: dict[tuple[str, str, int], list[Json]] = field(default_factory=lambda: defaultdict(list))
    asked: Counter[str] = field(default_factory=Counter)
    troubled: Counter[str] = field(default_factory=Counter)
    bodies: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.troubles.seed)


class RefusalError(Exception):
    """An answer of another status than 200."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


def _require(holds: bool, error: str, status: int = 400) -> None:
    if not holds:
        raise RefusalError(status, error)


def new_model(state: State, body: Json) -> Json:
    _require(bool(re.fullmatch(r"[a-z][a-z0-9.-]{0,30}[a-z0-9]", body["id"])), "Name must contain only lowercase letters")
    _require("--" not in body["id"] and ".." not in body["id"], "Name cannot contain double hyphens")
    _require(isinstance(body["layers"], int) and 1 <= body["layers"] <= 127, "Layers must be an integer less than 128")
    _require(1 <= len(body.get("displayName", "x")) <= 64, "Display name must be less than 64 characters")
    _require(body["id"] not in state.models, "Model already exists")
    state.models[body["id"]] = body
    return body


def new_set(state: State, body: Json) -> Json:
    name = body["name"]
    _require(bool(re.fullmatch(r"[a-z0-9-]+", name)) and "--" not in name and name != "neurons", "invalid name")
    _require(len(body.get("description", "")) <= 128, "description is too long")
    _require(body["modelId"] in state.models, "no such model", 404)
    _require((body["modelId"], name) not in state.sets, "Source set already exists")
    sources = [{"id": f"{layer}-{name}"} for layer in range(state.models[body["modelId"]]["layers"])]
    state.sets[body["modelId"], name] = {**body, "sources": sources}
    return body


def upload(state: State, body: Json) -> Json:
    model, source = body["modelId"], body["source"]
    known = {each["id"] for (of, _), found in state.sets.items() if of == model for each in found["sources"]}
    _require(source in known, "no such source", 404)
    features = body["features"]
    _require(1 <= len(features) <= 128, "1 to 128 features")
    _require(len({each["index"] for each in features}) == len(features), "indices must be unique")
    for feature in features:
        _check(feature)
    for feature in features:
        key = (model, source, feature["index"])
        state.features.setdefault(key, feature)
        state.activations[key] += feature["activations"]
    return {"message": "ok"}


def _check(feature: Json) -> None:
    _require(isinstance(feature["index"], int) and 0 <= feature["index"] <= 10_000_000, "index")
    _require(0 <= feature["density"] <= 1, "density")
    for name in ("topLogits", "bottomLogits"):
        _require(len(feature[name]) <= 20, name)
        _require(all(each["token"] and math.isfinite(each["value"]) for each in feature[name]), f"{name}: required")
    _require(len(feature["activations"]) >= 1, "at least one activation")
    for each in feature["activations"]:
        _require(1 <= len(each["tokens"]) <= 1024 and len(each["tokens"]) == len(each["values"]), "tokens and values")
        _require(all(isinstance(token, str) and token for token in each["tokens"]), "tokens: required")
        _require(not any("\0" in token for token in each["tokens"]), "invalid byte sequence for encoding UTF8: 0x00")
        _require(all(map(math.isfinite, each["values"])), "values")
        _require(all(math.isfinite(each[f"quantile{end}"]) for end in ("Min", "Max", "Fraction")), "quantile")


WRITES = {"/api/model/new": new_model, "/api/source-set/new": new_set, "/api/feature/upload-batch": upload}


class Handler(BaseHTTPRequestHandler):
    """One call."""

    state: State

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        _, _, kind, *names = self.path.split("/")
        with self.state.lock:
            found = self.state.sets.get((names[0], names[1])) if kind == "source-set" else None
        self._answer(200 if found else 404, found or {"error": "Not Found"})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if self.path == "/api/features":
                with self.state.lock:
                    self.state.asked[self.path] += 1
                    self._answer(200, self._stored(json.loads(data)))
            else:
                self._write(data)
        except RefusalError as refusal:
            self._answer(refusal.status, {"error": str(refusal)})

    def _stored(self, asked: list[Json]) -> list[Json]:
        found = [(each["modelId"], each["layer"], each["index"]) for each in asked]
        return [{"index": str(key[2])} for key in found if key in self.state.features]

    def _write(self, data: bytes) -> None:
        state = self.state
        with state.lock:
            state.asked[self.path] += 1
            state.bodies.append(len(data))
            trouble, at_work = self._trouble(), state.chance.uniform(0, state.troubles.longest_s)
            state.troubled[trouble] += 1
        _require(self.headers.get("X-Api-Key") == KEY, f"Invalid API Key {self.headers.get('X-Api-Key')}", 401)
        _require(len(data) <= LARGEST_BODY, "FUNCTION_PAYLOAD_TOO_LARGE", 413)
        _require(trouble != "too_many", "Too many requests", 429)
        _require(trouble != "failed_before", "Internal Server Error", 500)
        if trouble == "dropped_before":
            return self._drop()
        time.sleep(at_work)
        with state.lock:
            answer = WRITES[self.path](state, json.loads(data))
        _require(trouble != "failed_after", "Gateway Timeout", 504)
        return self._drop() if trouble == "dropped_after" else self._answer(200, answer)

    def _trouble(self) -> str:
        named = ("too_many", "failed_before", "failed_after", "dropped_before", "dropped_after")
        shares = [getattr(self.state.troubles, name) for name in named]
        return self.state.chance.choices([*named, "none"], [*shares, 1 - sum(shares)])[0]

    def _drop(self) -> None:
        """A connection that breaks without a word."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _answer(self, status: int, found: Any) -> None:
        data = json.dumps(found).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # nobody is left to hear it
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """Quiet about clients that were killed."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def neuronpedia(troubles: Troubles | None = None) -> Iterator[tuple[str, State]]:
    """A server on loopback: its address, and what it has."""
    state = State(troubles or Troubles())
    with Server(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", state
        finally:
            server.shutdown()
            thread.join()
