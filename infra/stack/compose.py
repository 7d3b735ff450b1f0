"""What ``infra/compose.yaml`` says of its services: as much of the format as that file uses.

The format: https://github.com/compose-spec/compose-spec/blob/main/spec.md
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import InputError

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Service:
    """One service, its variables filled in; addresses and paths are still those of its container."""

    name: str
    command: tuple[str, ...]
    """Words of the command; empty where the image brings its own."""
    environment: Mapping[str, str]
    check: tuple[str, ...]
    """Words of the health check; empty where there is none."""
    needs: tuple[str, ...]
    """Names of the services that have to be there before."""
    volumes: Mapping[str, str]
    """Names of volumes, and where the container has them."""
    files: Mapping[str, str]
    """Paths of files in the container, and their content."""

    def copies(self, number: int) -> "list[Service]":
        """As ``docker compose up --scale`` has them: ``ray-worker-1``, ``ray-worker-2``."""
        return [replace(self, name=f"{self.name}-{i}") for i in range(1, number + 1)]


def services(file: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """All services by name, each after those that it needs.

    Raises:
        InputError: the file asks for a variable that is not there.
    """
    compose = _filled(yaml.safe_load(file.read_text()), variables)
    contents = {name: config["content"] for name, config in compose.get("configs", {}).items()}
    found = {name: _service(name, said, contents) for name, said in compose["services"].items()}
    order = TopologicalSorter({name: service.needs for name, service in found.items()}).static_order()
    return {name: found[name] for name in order}


def _service(name: str, said: dict[str, Any], contents: Mapping[str, str]) -> Service:
    volumes = (volume.split(":") for volume in said.get("volumes", []))
    return Service(
        name,
        command=_words(said.get("command", "")),
        environment={key: str(value) for key, value in said.get("environment", {}).items()},
        check=_check(said.get("healthcheck", {}).get("test", ["NONE"])),
        needs=tuple(said.get("depends_on", {})),
        volumes={source: target for source, target in volumes},
        files={config["target"]: contents[config["source"]] for config in said.get("configs", [])},
    )


def _words(command: str | list[str]) -> tuple[str, ...]:
    return tuple(shlex.split(command) if isinstance(command, str) else command)


def _check(test: list[str]) -> tuple[str, ...]:
    kind, *words = test
    if kind == "CMD-SHELL":
        return ("sh", "-c", *words)
    return tuple(words)


def _filled(said: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(said, dict):
        return {key: _filled(value, variables) for key, value in said.items()}
    if isinstance(said, list):
        return [_filled(part, variables) for part in said]
    return _VARIABLE.sub(lambda found: _value(found, variables), said) if isinstance(said, str) else said


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, kind, text = found.groups()
    if given := variables.get(name):
        return given
    if kind == "-":
        return str(text)
    raise InputError(f"The compose file asks for {name}, which is not set{': ' + text if text else ''}.")
