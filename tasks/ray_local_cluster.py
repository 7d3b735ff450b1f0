"""A Ray cluster for this process alone: on loopback, behind a token, in a folder and a session of its own.

Left to itself, Ray 2.60 listens on every interface, writes its token where all may read it, lets all into its folder,
starts its workers at nice 15, dies of a signal that is meant for this process, and gives up after 30 s.
"""

import errno
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import ray
from ray._private import node, parameter, ray_constants, services
from ray._private.authentication import authentication_token_setup
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined] # compiled

from tasks.errors import InputError, SaemillError

_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_OF_FILES = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
)
# For the cluster's processes; set already, they stay as they are.
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what "no other machine is to join" is called
    "RAY_enable_metrics_collection": "0",  # a port that answers anybody
    "RAY_worker_niceness": "0",  # at Ray's 15, workers starve beside any other work
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
}
# Each is a Python process that takes 2 to 3 s of a slow CPU to start (Zen 3), and the first two go on taking 1% of a core:
# one sends workers' output to this process, which is not asked for, one asks a cloud for machines, one is the dashboard.
_NEEDLESS = {"include_log_monitor": False, "no_monitor": True}


def start(timeout_s: float, **options: Any) -> None:
    """``ray.init`` of a cluster that nobody else can use.

    Raises:
        InputError: the folder that RAY_TMPDIR names has a name that PyTorch cannot read.
        SaemillError: it is not there within ``timeout_s``; nothing of it is left then.
    """
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:  # without either, Ray writes ~/.ray/auth_token for everybody to read
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    authentication_token_setup._enable_token_auth()
    AuthenticationTokenLoader.instance().reset_cache()
    environment = _ENVIRONMENT | {"RAY_gcs_server_port_wait_time_s": str(max(1, int(timeout_s)))}  # Ray's own: 20 s
    environment = {name: os.environ.get(name, value) for name, value in environment.items()}
    folder = private_folder()
    ports = agents_ports()
    export = ports.pop("metrics_export_port")  # the one that ray.init itself takes
    started: list[subprocess.Popen[bytes]] = []
    begun: list[subprocess.Popen[bytes]] = []

    def popen(command: list[str], **how: Any) -> Any:
        name = Path(command[0]).name
        told = [f"--dashboard_agent_listen_port={ports['dashboard_agent_listen_port']}"] if name == "raylet" else []
        process = console_popen([*command, *told], start_new_session=True, **how)
        begun.append(process)
        if name in ("raylet", "gcs_server"):
            started.append(process)
        return process

    console_popen = services.ConsolePopen
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False),  # was read when Ray was imported
        # A session of its own: a signal to this process's group (Ctrl-C, GNU timeout, systemd) reaches this process alone,
        # which then stops Ray. Linux kills Ray's processes when this one dies in whatever way.
        mock.patch.object(services, "ConsolePopen", popen),
        mock.patch.object(services, "get_node", patient(services.get_node, timeout_s, started)),
        # Where it is not told their ports, the raylet ends if its agents have not told it theirs after 15 s.
        mock.patch.object(parameter, "RayParams", partial(parameter.RayParams, **ports, **_NEEDLESS)),
        mock.patch.object(node.Node, "start_api_server", lambda *_, **__: None),
    ):
        try:
            with _nothing_left_of_a_failure(begun):
                ray.init(
                    address="local", _temp_dir=folder, _metrics_export_port=export, **options
                )  # local: else it joins what runs on this machine
        except OSError as error:
            raise _failed(error, folder) from error
        except RuntimeError as error:
            if "Failed to start GCS" not in str(error):
                raise
            raise _too_slow(timeout_s) from error
    _kill_when_this_process_dies(ray._private.worker._global_node.all_processes[ray_constants.PROCESS_TYPE_RAYLET])


@contextmanager
def _nothing_left_of_a_failure(begun: Sequence["subprocess.Popen[bytes]"]) -> Iterator[None]:
    """Where the block fails, end what it began: Ray leaves it running, and another try would start a second cluster."""
    try:
        yield
    except BaseException:
        ray.shutdown()
        for process in begun:
            with suppress(ProcessLookupError, PermissionError):  # it has ended, and macOS calls that so
                os.killpg(process.pid, signal.SIGKILL)  # each has a session of its own, with its agents
            process.wait()
        raise


def _failed(error: OSError, folder: str) -> SaemillError:
    """What an error of the operating system says; Ray's own, without a number, is of a path too long for a socket."""
    if error.errno in _OF_FILES or (error.errno is None and type(error) is OSError):
        return SaemillError(
            f"Ray cannot write its files in {folder} ({error.strerror or error}). Make room there, or name another "
            "folder with the environment variable RAY_TMPDIR."
        )
    return _ended(f"Ray could not be started on this machine ({error.strerror or str(error) or type(error).__name__}).")


def _ended(sentence: str) -> SaemillError:
    return SaemillError(
        f"{sentence} Nothing is lost: give the same command again. If that does not help, "
        "the logs say why: session_latest/logs in a folder saemill-*/ray below /tmp or RAY_TMPDIR."
    )


@contextmanager
def on_loopback_where_it_must_be(address: str) -> Iterator[None]:
    """Let ``ray.init`` in the block join a cluster of this machine that answers on loopback only, as those of ``start`` do.

    Ray takes 127.0.0.1 for the machine's outward address (2.60, services.resolve_ip_for_localhost), and would try for
    minutes to reach such a cluster there.
    """
    host, _, port = address.rpartition(":")
    local = host in ("127.0.0.1", "localhost") and port.isdecimal()
    if not local or _answers(services.get_node_ip_address(), int(port)):
        yield
        return
    with mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _kill_when_this_process_dies(raylets: list[Any]) -> None:
    """Have a shell wait for this process's end, and end the raylet's agents then.

    The kernel kills what this process started, the raylet among it. The raylet's own agents see that too, and first try for
    60 s to tell a GCS that is gone as well (2.60, _private/process_watcher.py).
    """
    if sys.platform != "linux":
        return
    reading, _ = os.pipe()  # the other end is closed by this process's end, however it comes
    (raylet,) = (info.process.pid for info in raylets)
    command = ["sh", "-c", f"read _; kill -s KILL -- -{raylet} 2>/dev/null"]
    os.posix_spawn("/bin/sh", command, {}, file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)], setsid=True)
    os.close(reading)


def private_folder() -> str:
    """A folder for Ray's files and sockets that only this user can enter.

    Ray lets everybody into the folder that it is given, so that one lies in another. Its path is short: Ray adds 63
    characters, and a Unix socket's may have 107.
    """
    root = Path(os.path.abspath(os.environ.get("RAY_TMPDIR") or "/tmp"))
    # Ray reads ASCII only (2.60, _raylet.pyx), and PyTorch's workers are told of a file there by its URL.
    if not (str(root).isascii() and str(root).isprintable()) or set("#?") & set(str(root)):
        raise InputError(
            f"RAY_TMPDIR is {str(root)!r} but must be a folder whose path has ASCII letters only, and no # or ?."
        )
    usual = root / f"saemill-{os.getuid()}"
    try:
        usual.mkdir(mode=0o700, exist_ok=True)
        about = usual.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            usual = Path(tempfile.mkdtemp(prefix="saemill-", dir=root))  # somebody else was there first
    except OSError as error:
        raise SaemillError(
            f"Ray needs a folder for its files but {usual} cannot be made ({error.strerror}). Name another with the "
            "environment variable RAY_TMPDIR."
        ) from error
    return str(usual / "ray")


def agents_ports() -> dict[str, int]:
    """Ports of loopback for a node's agents, by what Ray calls them; free when this returns."""
    names = ("metrics_agent_port", "runtime_env_agent_port", "dashboard_agent_listen_port", "metrics_export_port")
    with ExitStack() as held:
        return {name: held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for name in names}


def patient(
    get_node: Callable[..., Any], timeout_s: float, started: Sequence["subprocess.Popen[bytes]"] = ()
) -> Callable[..., Any]:
    """Ask for the node until it is there or time is up; Ray itself stops asking after 30 s (2.60, _private/node.py)."""
    deadline = time.monotonic() + timeout_s

    def asking(*given: Any) -> Any:
        while True:
            try:
                return get_node(*given)
            except RuntimeError as error:
                if any(process.poll() is not None for process in started):
                    raise _ended("Ray ended while it started.") from error
                if time.monotonic() > deadline:
                    raise _too_slow(timeout_s) from error
                time.sleep(0.2)

    return asking


def _too_slow(timeout_s: float) -> SaemillError:
    return SaemillError(
        f"Ray did not start on this machine within {timeout_s:g} s (ray.start_timeout_s); it is probably busy with other "
        "work. Nothing is lost: give the same command again when it is less so, or raise the setting."
    )
