import http.server
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, SSLError

from tasks.errors import InputError, SaemillError
from tasks.storage.objects import open_store
from tasks.storage.retry import Patience, may_pass, retried
from tasks.storage.s3 import S3Store
from tests.conftest import s3_server
from tests.patience import PATIENCE_S

SERVER_AWAY_S = 20.0


class Clock:
    """Time that passes only in sleep()."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    def patience(self, uniform: Callable[[float, float], float] = lambda low, high: high) -> Patience:
        return Patience(clock=self, sleep=self.sleep, uniform=uniform)


def failing(
    times: float, error: Callable[[], BaseException] = lambda: ConnectionRefusedError("refused")
) -> Callable[[], str]:
    attempts = itertools.count()

    def call() -> str:
        if next(attempts) < times:
            raise error()
        return "done"

    return call


def test_waits_double_up_to_eight_seconds() -> None:
    clock = Clock()
    assert retried(failing(10), lambda: "get", clock.patience()) == "done"
    assert clock.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 8.0, 8.0, 8.0]


def test_each_wait_lies_anywhere_between_nothing_and_its_bound() -> None:
    low, high = Clock(), Clock()
    retried(failing(8), lambda: "get", low.patience(lambda least, most: least))
    retried(failing(8), lambda: "get", high.patience(lambda least, most: most / 4))
    assert low.slept == [0.0] * 8
    assert high.slept == [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]


def test_it_gives_up_after_ninety_seconds_with_a_last_attempt_then() -> None:
    clock = Clock()
    with pytest.raises(
        SaemillError, match=r"^The get of s3://lake/a at http://there has failed for 90 s, at last with: refused\."
    ):
        retried(failing(float("inf")), lambda: "get of s3://lake/a at http://there", clock.patience())
    assert clock.now == pytest.approx(90)


def test_time_is_counted_from_the_first_failure_so_that_a_slow_first_attempt_does_not_use_it_up() -> None:
    clock = Clock()

    def slow() -> str:
        if clock.now == 0:
            clock.now = 300
            raise TimeoutError("no answer")
        return "done"

    assert retried(slow, lambda: "get", clock.patience()) == "done"


def test_what_will_not_pass_is_raised_at_once() -> None:
    clock = Clock()
    for error in (FileNotFoundError("a"), PermissionError("a"), NoCredentialsError(), SSLError(endpoint_url="", error="")):
        with pytest.raises(type(error)):
            retried(failing(1, lambda error=error: error), lambda: "get", clock.patience())  # type: ignore[misc]
    assert clock.slept == []


def test_only_the_first_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        retried(failing(5), lambda: "put of a", Clock().patience())
    assert [record.getMessage() for record in caplog.records] == ["put of a failed and is tried again for 90 s: refused"]


class Answering(http.server.BaseHTTPRequestHandler):
    """An S3 server that answers every request with the next of some status codes."""

    protocol_version = "HTTP/1.1"  # only then is a client that waits for "100 Continue" told to go on

    answers: Iterator[tuple[int, str]]
    asked: int

    def do_GET(self) -> None:
        type(self).asked += 1
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        status, code = next(self.answers)
        body = b"data" if status == 200 else f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_HEAD = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answering]]:
    class Handler(Answering):
        asked = 0

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        # A name of its own per server, for s3fs keeps one connection per settings.
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testtest")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        yield Handler
        server.shutdown()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    "answer", [(500, "InternalError"), (502, "BadGateway"), (503, "SlowDown"), (429, "TooManyRequests")]
)
def test_a_server_in_trouble_is_asked_again(answer: tuple[int, str], answering: type[Answering]) -> None:
    answering.answers = iter([answer, answer, (200, "")])
    clock = Clock()
    assert S3Store("s3://lake/x", clock.patience()).get("a", 0, 4) == b"data"
    assert clock.slept == [0.1, 0.2]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((403, "AccessDenied"), InputError),
        ((404, "NoSuchKey"), FileNotFoundError),
        ((412, "PreconditionFailed"), OSError),
    ],
)
def test_a_refusal_is_final(answer: tuple[int, str], error: type[Exception], answering: type[Answering]) -> None:
    answering.answers = itertools.repeat(answer)
    with pytest.raises(error):
        S3Store("s3://lake/x", Clock().patience()).get("a", 0, 4)
    assert answering.asked == 1


def test_a_create_that_had_arrived_before_its_answer_was_lost_has_won(answering: type[Answering]) -> None:
    answering.answers = itertools.chain([(500, "InternalError"), (412, "PreconditionFailed")], itertools.repeat((200, "")))
    assert S3Store("s3://lake/x", Clock().patience()).put_if_absent("a", b"data")


def test_the_sentence_names_verb_object_endpoint_and_time(
    answering: type[Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering.answers = itertools.repeat((503, "ServiceUnavailable"))
    with pytest.raises(
        SaemillError, match=r"The put of s3://lake/x/a at http://127\.0\.0\.1:\d+ has failed for 90 s, at last"
    ):
        S3Store("s3://lake/x", Clock().patience()).put("a", b"data")


def test_a_server_that_is_not_there_may_come_back() -> None:
    assert may_pass(EndpointConnectionError(endpoint_url="http://there"))


@pytest.mark.s3
def test_every_verb_outlasts_a_server_that_is_killed_and_restarted(s3: str, s3_process: s3_server, tmp_path: Path) -> None:
    store = open_store(f"{s3}/{tmp_path.name}")
    store.put("there/0", b"there")
    busy = threading.Event()
    busy.set()

    def work(name: int) -> int:
        """Each verb in turn, as long as the server is in trouble; how often."""
        for n in itertools.count(1):
            key = f"there/{name}-{n}"
            store.put(key, key.encode())
            assert store.put_if_absent(f"{key}-once", key.encode())
            assert store.get(key) == key.encode()
            assert store.get("there/0", 1, 3) == b"her"
            assert key in {info.key for info in store.list("there/")}
            assert store.head(key) is not None
            store.delete(key)
            if not busy.is_set():
                return n
        raise AssertionError

    with ThreadPoolExecutor(6) as pool:
        working = [pool.submit(work, name) for name in range(6)]
        time.sleep(1)
        s3_process.stop()
        try:
            time.sleep(SERVER_AWAY_S)
        finally:
            s3_process.start()
            busy.clear()
        done = [future.result(timeout=PATIENCE_S) for future in working]
    created = {info.key for info in store.list("there/")} - {"there/0"}
    assert created == {f"there/{name}-{n}-once" for name in range(6) for n in range(1, done[name] + 1)}
