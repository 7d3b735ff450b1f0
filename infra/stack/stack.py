"""All services together: started in the order of their needs, each once those before it are well."""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from infra.stack import compose, passwords, processes
from infra.stack.compose import Service
from infra.stack.places import Places, ports_of
from infra.stack.programs import REPOSITORY, Program, environment_of, prepare, program, write_ray
from tasks.errors import SaemillError

START_TIMEOUT_S = 900.0
"""Of one service. The slowest, Ray's head, took 90 s with seven processes at work on each of two cores."""
CHECK_TIMEOUT_S = 60.0
COMPOSE = REPOSITORY / "infra/compose.yaml"
LAST = 2
"""Lines of a log that are shown where a service ends by itself."""


def described(root: Path, ray_workers: int) -> tuple[Places, list[Service]]:
    """The places of the stack in a folder, and its services in the order of their start.

    Raises:
        InputError: the compose file asks for a variable that is not set.
    """
    found = compose.services(COMPOSE, {**os.environ, **passwords.chosen(root)})
    places = Places(root, ports_of(root, kept=bool(processes.running(root))), tuple(found))
    several = {"ray-worker": ray_workers}
    return places, [
        one for name, service in found.items() for one in (service.copies(several[name]) if name in several else [service])
    ]


def bring_up(places: Places, services: list[Service]) -> Iterator[tuple[str, float | None]]:
    """Start each service that does not run; its name and the seconds until it was well, None where it was up.

    Raises:
        InputError: a program is not installed, or cannot be run.
        SaemillError: a service ends, or is not well within ``START_TIMEOUT_S``.
    """
    programs = {service.name: program(service, places) for service in services}
    write_ray(places)
    for service in services:
        own = programs[service.name]
        began = time.monotonic()
        was_up = processes.first(places.root, service.name) is not None
        if not was_up:
            processes.stop(places.root, [service.name])  # what its first process left, or whoever started that
            prepare(service, own, places)
            folder = places.folder(service.name) if own.user is not None else REPOSITORY
            processes.start(places.root, service.name, own.command, own.environment, folder, own.user)
        _wait_until_well(places.root, service.name, own, began)
        yield service.name, None if was_up else time.monotonic() - began


def take_down(root: Path) -> Iterator[str]:
    """Stop all services, those first that need others; their names."""
    order = [*reversed(started(root))]
    for name in [*order, *sorted(set(processes.running(root)) - set(order))]:
        processes.stop(root, [name])
        yield name


def started(root: Path) -> list[str]:
    """The services that were started and not stopped, in the order of their start."""
    files = (root / "pids").glob("*") if (root / "pids").exists() else []
    return [file.name for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]


def exports(root: Path) -> list[str]:
    """Lines for a shell that is to use the stack as its worker does; of passwords, the commands that read them."""
    places, services = described(root, 1)
    (worker,) = (service for service in services if service.name == "worker")
    files = {password: passwords.file(root, name) for name, password in passwords.chosen(root).items()}
    return [
        f'export {name}="$(cat {shlex.quote(str(files[value]))})"'
        if value in files
        else f"export {name}={shlex.quote(value)}"
        for name, value in environment_of(worker, places).items()
        if name.startswith(("AWS_", "PREFECT_", "RAY_", "GLOO_"))
    ]


def _wait_until_well(root: Path, name: str, program: Program, began: float) -> None:
    while program.check and not _is_well(program):
        if processes.first(root, name) is None:
            raise SaemillError(f"{name} ended while it started: {' / '.join(_last_lines(root / 'logs' / name))}")
        if time.monotonic() > began + START_TIMEOUT_S:
            raise SaemillError(f"{name} was not well within {START_TIMEOUT_S:g} s. {root / 'logs' / name} may say why.")
        time.sleep(0.5)


def _is_well(program: Program) -> bool:
    try:
        done = subprocess.run(
            program.check, env=dict(program.environment), capture_output=True, timeout=CHECK_TIMEOUT_S, cwd=REPOSITORY
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _last_lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-LAST:]
