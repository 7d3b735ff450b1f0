"""The Prefect server that ``saemill serve`` starts: a child process, on a port that this process took before and keeps.

So nobody else can listen where our password is sent, neither before the child does nor after its end.
"""

import contextlib
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from flows import home, password
from tasks.errors import InputError, SaemillError

HOST = "127.0.0.1"
START_TIMEOUT_S = 180
"""Twelve times what a start took on 2 busy cores."""
STOP_TIMEOUT_S = 20
BACKLOG = 2048
"""As uvicorn's own."""

Process = subprocess.Popen[bytes]


@contextlib.contextmanager
def running(port: int) -> Iterator[Process]:
    """A Prefect server that lives as long as the block, or ends it.

    Raises:
        InputError: the port is taken or not for everybody, or the server's folder cannot be written.
        SaemillError: the server does not start, or it ended before the block did.
    """
    with _listening(port) as place:
        with home.writing():
            home.prepare()
            password.keep(os.environ[password.CLIENT], password.file())
            process = _started(port, place)
        threading.Thread(target=_hang_up_after, args=(process, place), name="server", daemon=True).start()
        try:
            _wait_until_healthy(f"http://{HOST}:{port}/api", process)
            yield process
            _require_alive(process)
        except SaemillError:
            raise
        except Exception as error:  # such as of a client that lost its connection
            _require_alive(process, patience_s=1, cause=error)
            raise
        finally:
            _stop(process)


def _hang_up_after(process: Process, place: socket.socket) -> None:
    """Once the server has ended, refuse who connects, who would wait for ever; the port stays ours."""
    process.wait()
    with contextlib.suppress(OSError):  # closed, or macOS
        # A port whose holder does not listen may be taken by others, unless the holder does not share it.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        place.shutdown(socket.SHUT_RDWR)


def _require_alive(process: Process, patience_s: float = 0, cause: Exception | None = None) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(patience_s)
        raise SaemillError(
            f"The Prefect server ended with code {code}, and with it what it ran. {home.log()} says why. Nothing that is "
            "finished is lost: start saemill serve again."
        ) from cause


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """Listen, not only bind: two may be bound to one port before either listens."""
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((HOST, port))
            place.listen(BACKLOG)
        except OSError as error:
            raise _refused(port, error) from None
        yield place


def _refused(port: int, error: OSError) -> InputError:
    if error.errno == errno.EACCES:
        return InputError(f"Port {port} is not for everybody to listen at. Choose one from 1024 on with --port.")
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"Port {port} is taken. Choose another with --port, or use the Prefect server there with --server URL."
        )
    return InputError(f"Nothing can listen at port {port} of {HOST} ({error.strerror}). Choose another with --port.")


def _started(port: int, place: socket.socket) -> Process:
    own = {password.SERVER: os.environ[password.CLIENT], "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}"}
    with open(home.log(), "ab", opener=_private) as output:
        # A session of its own: Ctrl-C in a terminal reaches only this process, which stops flows first and then the server.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.guarded_server", str(port), str(place.fileno())],
            stdout=output,
            stderr=output,
            env=os.environ | own,
            pass_fds=[place.fileno()],
            start_new_session=True,
            preexec_fn=_die_with_parent,
            umask=0o077,  # its database holds everything that was ever set
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _wait_until_healthy(api: str, process: Process) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        healthy = _healthy(api)
        if process.poll() is not None:
            raise SaemillError(
                f"The Prefect server stopped with code {process.returncode} while starting. See {home.log()}."
            )
        if healthy:
            return
        if time.monotonic() > deadline:
            raise SaemillError(f"The Prefect server did not answer within {START_TIMEOUT_S} s. See {home.log()}.")
        time.sleep(0.3)


def _healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError):
        return False


def _stop(process: Process) -> None:
    """Ask the server to stop, and make it."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _die_with_parent() -> None:
    """In the child, before it becomes the server: have Linux stop it when this process dies, even by kill -9."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # <linux/prctl.h>
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
