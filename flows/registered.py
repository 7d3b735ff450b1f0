"""What a run leaves in the registry of its configuration: its SAE as a version, and the alias of the challenger."""

import getpass
import logging
import os
import socket

from flows.addresses import Addresses
from flows.config import PipelineConfig
from tasks.registry.moving import challenge
from tasks.registry.records import Signed
from tasks.registry.registering import register
from tasks.registry.registry import Registry

logger = logging.getLogger("tasks.registry")  # below "tasks", whose records are shown


def registered(config: PipelineConfig, at: Addresses) -> str | None:
    """Register the SAE of a finished run, as NAME@3; None where the configuration names no registry.

    The same SAE is the version that it has already, and the challenger never goes back to an earlier one. So a run that was
    killed anywhere here, or is given again, ends as if it had run once.

    Raises:
        ArtifactError: a record of the registry, or the SAE, is damaged.
    """
    if config.registry.name is None:
        return None
    registry, signed = Registry.at(config.storage, config.registry.name), now()
    version, is_new = register(registry, at.sae, signed, scores=at.scores)
    challenger = challenge(registry, version.version, signed)
    found = f"{registry.name}@{version.version}"
    logger.info("registry: %s%s; challenger is version %s", found, "" if is_new else " (there already)", challenger.version)
    return found


def now() -> Signed:
    """Whoever runs this process, at this moment."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name; Python 3.13 raises OSError
        user = f"uid{os.getuid()}"
    return Signed.now(f"{user}@{socket.gethostname()}")
