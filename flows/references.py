"""Where an SAE is taken, its URI or a reference to a version: here one becomes the other, for commands and for Python."""

import os

from flows.config import PipelineConfig
from tasks.registry import resolve

STORAGE = "SAEMILL_STORAGE"
"""Environment variable that names the storage whose registries references are looked up in."""


def storage_of(given: str | None = None) -> str:
    """The storage in which a registry is: as given, else as the environment says, else where runs write by default."""
    default: str = PipelineConfig.model_fields["storage"].default
    return given or os.environ.get(STORAGE) or default


def sae_at(reference: str, storage: str | None = None) -> str:
    """The URI of an SAE that is given by a URI, a path, or a reference such as ``NAME@champion``.

    Raises:
        InputError: it is a reference, but there is no such registry, version or alias.
        ArtifactError: a record of the registry is damaged.
    """
    return resolve(reference, storage_of(storage))
