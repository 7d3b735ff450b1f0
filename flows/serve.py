"""``saemill serve``: a Prefect server on loopback with the pipeline and a nightly run, in one command, for its user alone.

The server is a child process; deployments are served, and reports shown, from this one. Stopping one stops both.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flows import password
from flows.configurations import load_stored, offer
from flows.console import say
from flows.guard import ENTRANCE
from flows.reports import serving_reports
from tasks.errors import InputError, SaemillError

HOST = "127.0.0.1"
START_TIMEOUT_S = 180
"""Twelve times what a start took on 2 busy cores."""
STOP_TIMEOUT_S = 20

# What Prefect would send to its makers, or keep only in memory, unless told otherwise.
ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    # In memory, the slots of running flows are lost with the server, which then cancels them.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What is served, where and when."""

    config: str
    """YAML file of settings that the forms of ``pipeline`` and ``sweep`` begin with."""
    nightly_config: str
    """YAML file of the nightly run."""
    cron: str | None
    """When the nightly run starts. None: leave the schedule as it was edited in the UI, or DEFAULT_CRON at first."""
    timezone: str
    storage: str | None
    port: int
    server: str | None
    """API URL of a Prefect server that runs already; None starts one."""


def serve(options: ServeOptions) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        InputError: a configuration or the schedule is wrong, the port is taken, or no server answers at the URL given.
        SaemillError: the server does not start.
    """
    configuration, nightly = offer([options.config, options.nightly_config])
    config, _ = (load_stored(name, storage=options.storage) for name in (configuration, nightly))
    api = _configure_prefect(options)
    with warnings.catch_warnings():  # Prefect warns that its home is not there yet; nothing is made before all is checked
        warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
        from flows.deployments import check_schedule, offered, serve_deployments  # importing Prefect reads its settings
        from flows.watch import watching_schedules

    check_schedule(options.cron, options.timezone)
    console = Console(stderr=True)
    with _server(options, api), serving_reports(config.storage, options.port + 1) as reports:
        say(console, f"Prefect is at {api.removesuffix('/api')} (to start a run: Deployments, pipeline, Run, Custom run).")
        if options.server is None:
            root = api.removesuffix("/api")
            say(console, f"To let a browser in, open this there once: {root}{ENTRANCE}#{os.environ[password.CLIENT]}")
        if reports is not None:
            say(console, f"Finished reports are at {reports}.")
        storage = None if options.storage is None else config.storage
        log = _log() if options.server is None else None
        with watching_schedules(lambda line: say(console, line, style="bold red"), log):
            serve_deployments(offered(configuration, nightly, storage, options.cron, options.timezone))


def _configure_prefect(options: ServeOptions) -> str:
    """Set what Prefect reads from the environment, for this process and its children; the URL of the API."""
    if options.server is not None:
        api = options.server.rstrip("/").removesuffix("/api") + "/api"
    else:
        api = f"http://{HOST}:{options.port}/api"
        os.environ.setdefault("PREFECT_HOME", os.path.abspath(".saemill/prefect"))
        os.environ[password.CLIENT] = os.environ.get(password.SERVER) or password.kept_or_new(_password_file())
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["PREFECT_API_URL"] = api
    return api


@contextlib.contextmanager
def _server(options: ServeOptions, api: str) -> Iterator[None]:
    """A Prefect server that lives as long as the block, unless one runs already at ``options.server``."""
    if options.server is not None:
        password.require_welcome(api, "--server")
        yield
        return
    _require_free(options.port)
    log = _log()
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    password.keep(os.environ[password.CLIENT], _password_file())
    own = {password.SERVER: os.environ[password.CLIENT], "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": api.removesuffix("/api")}
    command = [sys.executable, "-P", "-m", "flows.guarded_server", str(options.port)]
    with open(log, "ab", opener=_private) as output:
        # A session of its own: Ctrl-C in a terminal reaches only this process, which stops flows first and then the server.
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ | own,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            umask=0o077,  # its database holds everything that was ever set
        )
    try:
        _wait_until_healthy(api, process, log)
        yield
    finally:
        _stop(process)


def _log() -> Path:
    return Path(os.environ["PREFECT_HOME"], "server.log")


def _password_file() -> Path:
    return Path(os.environ["PREFECT_HOME"], "password")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise InputError(
                f"Port {port} is taken. Choose another with --port, or use the Prefect server there with --server URL."
            ) from None


def _wait_until_healthy(api: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _healthy(api):
        if process.poll() is not None:
            raise SaemillError(f"The Prefect server stopped with code {process.returncode} while starting. See {log}.")
        if time.monotonic() > deadline:
            raise SaemillError(f"The Prefect server did not answer within {START_TIMEOUT_S} s. See {log}.")
        time.sleep(0.3)


def _healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=5) as answer:  # the scheme is the caller's, http in practice
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError):
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
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
