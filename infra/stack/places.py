"""Where things are on this machine that have an address, a port or a path of their own in a container."""

import contextlib
import json
import os
import random
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.stack.compose import Service
from tasks.errors import InputError

HOST = "127.0.0.1"
CONTAINER_PORTS = ("4200", "5432", "6379", "8265", "8333")
"""Prefect, Postgres, Ray, Ray's dashboard, S3: no two services of the compose file share one."""
OTHER_PORTS = (
    *(f"{part}.port{kind}" for part in ("master", "volume", "filer") for kind in ("", ".grpc")),
    "s3.port.grpc",
)
"""SeaweedFS's options for those that are reached within its own container only."""
RAY_CLIENT = "ray client"
"""Ray's head has a port for drivers elsewhere, too. At its usual one, 10001, other clusters of this machine may be."""
_NAMES = (*CONTAINER_PORTS, *OTHER_PORTS, RAY_CLIENT)
MOST_CHARACTERS = 40
"""Of the folder's path: Ray adds 63 for its sockets, and a socket's may have 107."""


@dataclass(frozen=True, slots=True)
class Places:
    """A stack's folder and ports."""

    root: Path
    ports: Mapping[str, int]
    """By the port in the container, or by what it is for."""
    services: tuple[str, ...]
    """Names by which services reach each other."""

    def folder(self, service: str) -> Path:
        """Where a service keeps its files."""
        return self.root / service

    def here(self, text: str, service: Service) -> str:
        """What a service's own text says, with this machine's addresses, ports and paths in it."""
        hosts = "|".join(sorted(map(re.escape, self.services), key=len, reverse=True))
        # A port has at most five digits; a user's name stands before a drawn password, which is longer.
        text = re.sub(rf"\b(?:{hosts})(?=:\d{{2,5}}\b)|0\.0\.0\.0", HOST, text)
        text = re.sub(rf"\b({'|'.join(CONTAINER_PORTS)})\b", lambda found: str(self.ports[found[1]]), text)
        for inside in (*service.volumes.values(), *service.files):
            text = re.sub(rf"(?<![\w./]){re.escape(inside)}\b", str(self.path(inside, service)), text)
        return text

    def path(self, inside: str, service: Service) -> Path:
        """Where that lies here which a container of this service has at ``inside``."""
        return self.folder(service.name) / inside.lstrip("/")


def usable(folder: Path) -> Path:
    """The whole path of a stack's folder, made if need be, for its owner to read and others to pass through.

    Raises:
        InputError: it is too long, or it cannot be made.
    """
    root = folder.absolute()
    if len(str(root)) > MOST_CHARACTERS:
        raise InputError(
            f"--dir is {root}, which has {len(str(root))} characters but may have {MOST_CHARACTERS}, as the paths of Ray's "
            "sockets begin with it. Name a shorter one, such as /tmp/stack."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o711)  # where this is root, Postgres runs as another user, whose folder lies in here
    except OSError as error:
        raise InputError(f"--dir is {root}, where nothing can be written ({error.strerror}). Name another.") from None
    return root


def known(folder: Path) -> Path:
    """The whole path of a folder that has a stack already.

    Raises:
        InputError: it has none.
    """
    root = folder.absolute()
    if not _ports(root).is_file():
        raise InputError(f"--dir is {root}, where no stack is. Start one there: python -m infra.stack up --dir {folder}.")
    return root


def _ports(root: Path) -> Path:
    return root / "ports.json"


def ports_of(root: Path, kept: bool) -> dict[str, int]:
    """The stack's ports, which stay the same from one start to the next where they can.

    Args:
        root: the stack's folder.
        kept: something of the stack runs, so that none may change.
    """
    before: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        before = json.loads(_ports(root).read_text())
    found = {name: before[name] for name in _NAMES if name in before and (kept or _free(before[name]))}
    for name in _NAMES:
        if name not in found:
            found[name] = _free_port(found.values())
    if found != before:
        write(_ports(root), json.dumps(found, indent=1) + "\n")
    return found


def write(file: Path, text: str, mode: int = 0o600, owner: str | None = None) -> None:
    """Put a file in place as a whole, whenever this process is killed."""
    handle, aside = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "w") as writing:
        writing.write(text)
    os.chmod(aside, mode)
    if owner is not None:
        shutil.chown(aside, owner)
    os.replace(aside, file)


def _free_port(taken: Iterable[int]) -> int:
    """Neither among those that the system hands out (32768 and up) nor among Ray's (10002 to 19999)."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        if port not in taken and _free(port):
            return port


def _free(port: int) -> bool:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just been closed is free
        try:
            listening.bind((HOST, port))
        except OSError:
            return False
        return True
