"""The port of `saemill serve` is its own from before its server starts until after it ends, and that end is told."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from flows import home, own_server, password
from tasks.errors import InputError, SaemillError
from tests.conftest import free_port
from tests.patience import PATIENCE_S

# Stands for the Prefect server: it says that it is well at the socket that it was handed.
STAND_IN = """
import http.server, socket, sys
class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Well, bind_and_activate=False)
server.socket = socket.socket(fileno=int(sys.argv[1]))
server.serve_forever()
"""


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv(home.HOME, str(tmp_path / "prefect"))
    monkeypatch.setenv(password.CLIENT, "saemill:x")
    _stand_in(monkeypatch, STAND_IN)
    return free_port()


def _stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    def started(port: int, place: socket.socket) -> own_server.Process:
        fd = place.fileno()
        return subprocess.Popen([sys.executable, "-c", code, str(fd)], pass_fds=[fd], start_new_session=True)

    monkeypatch.setattr(own_server, "_started", started)


def test_two_servers_never_share_a_port(port: int) -> None:
    with own_server.running(port), pytest.raises(InputError, match=f"Port {port} is taken"), own_server.running(port):
        pass


def test_nobody_else_listens_at_the_port_after_the_servers_end(port: int) -> None:
    with pytest.raises(SaemillError, match=r"ended with code -9.*server\.log says why"), own_server.running(port) as process:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGKILL)
        process.wait()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
        assert _is_refused(port), "and nobody waits there for an answer"


def _is_refused(port: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.1)
    return False


def test_a_lost_connection_is_told_as_the_servers_end(port: int) -> None:
    with pytest.raises(SaemillError, match="ended with code -9") as told, own_server.running(port) as process:
        process.send_signal(signal.SIGKILL)
        raise RuntimeError("all connection attempts failed")
    assert isinstance(told.value.__cause__, RuntimeError)


def test_an_error_of_the_block_stays_what_it_is_while_the_server_lives(port: int) -> None:
    with pytest.raises(ZeroDivisionError), own_server.running(port):
        raise ZeroDivisionError


def test_a_server_that_ends_while_it_starts_is_not_taken_for_healthy(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, "import sys; sys.exit(7)")
    monkeypatch.setattr(own_server, "_healthy", lambda api: time.sleep(1) is None or True)  # somebody else would answer
    with pytest.raises(SaemillError, match=r"stopped with code 7 while starting"), own_server.running(port):
        pytest.fail("it never started")


def test_a_port_for_the_superuser_is_told_from_a_taken_one() -> None:
    denied = own_server._refused(80, PermissionError(errno.EACCES, "Permission denied"))
    assert str(denied) == "Port 80 is not for everybody to listen at. Choose one from 1024 on with --port."
    assert "taken" not in str(own_server._refused(4200, OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))))
