"""``saemill serve``: a Prefect server on loopback with the pipeline and a nightly run, in one command, for its user alone.

The server is a child process; deployments are served, and reports shown, from this one. Stopping one stops both.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from flows import home, own_server, password
from flows.configurations import load_stored, offer
from flows.console import say
from flows.guard import entrance
from flows.own_server import Process
from flows.proxies import spare_loopback
from flows.reports import new_key, serving_reports

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
    """When the nightly run starts. None: leave the schedule as it was edited in the UI, or the default's at first."""
    timezone: str
    storage: str | None
    port: int
    server: str | None
    """API URL of a Prefect server that runs already; None starts one."""


def serve(options: ServeOptions) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        InputError: a configuration or the schedule is wrong, the port is taken, or no server answers at the URL given.
        SaemillError: the server does not start, or ends by itself.
    """
    configuration, nightly = offer([options.config, options.nightly_config])
    config, by_night = (load_stored(name, storage=options.storage) for name in (configuration, nightly))
    api = _configure_prefect(options)
    with warnings.catch_warnings():  # Prefect warns that its home is not there yet; nothing is made before all is checked
        warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
        from flows.automations import offer_automations  # importing Prefect reads its settings
        from flows.deployments import check_schedule, offered
        from flows.runner import serve_deployments
        from flows.watch import watching_schedules

    schedule = check_schedule(options.cron, options.timezone)
    console = Console(stderr=True)
    root = api.removesuffix("/api")
    with _server(options, api) as server, _reports(options, config.storage) as reports:
        say(console, f"Prefect is at {root} (to start a run: Deployments, pipeline, Run, Custom run).")
        if server is not None:
            say(console, f"To let a browser in, open this there once: {entrance(root, os.environ[password.CLIENT])}")
        if reports is not None:
            say(console, f"Finished reports are at {reports}.")
        beside = {} if options.storage is None else {"storage": config.storage}
        log = home.log() if server is not None else None
        with watching_schedules(lambda line: say(console, line, style="bold red"), log):
            deployments = offered(configuration, nightly, beside, options.cron, options.timezone)
            offer_automations(by_night.notify, schedule)
            serve_deployments(deployments, lambda: server is not None and server.poll() is not None)


def _configure_prefect(options: ServeOptions) -> str:
    """Set what Prefect reads from the environment, for this process and its children; the URL of the API."""
    if options.server is not None:
        api = options.server.rstrip("/").removesuffix("/api") + "/api"
    else:
        api = f"http://{own_server.HOST}:{options.port}/api"
        home.settle()
        os.environ[password.CLIENT] = password.own()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["PREFECT_API_URL"] = api
    spare_loopback(api)
    return api


@contextlib.contextmanager
def _reports(options: ServeOptions, storage: str) -> Iterator[str | None]:
    """The reports' server; beside a server of our own its links stay the same, as they stand in that server's UI."""
    key = None
    if options.server is None:
        file = home.home() / "reports"
        key = password.kept_or_new(file, new_key)
        with home.writing():
            password.keep(key, file)
    with serving_reports(storage, options.port + 1, key) as url:
        yield url


@contextlib.contextmanager
def _server(options: ServeOptions, api: str) -> Iterator[Process | None]:
    """A Prefect server of our own, unless one runs already at ``options.server``."""
    if options.server is not None:
        password.require_welcome(api, "--server")
        yield None
        return
    with own_server.running(options.port) as process:
        yield process
