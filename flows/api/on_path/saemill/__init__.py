"""saemill in Python and in notebooks.

    import saemill

    sae = saemill.load("runs/saes/demo-<hash>")
    latents = saemill.latents("runs/scores/demo-<hash>")

Names are looked up when they are first used. So the import takes some hundredths of a second and brings no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._own_packages import claim

if TYPE_CHECKING:
    from flows.api.activations import Activations, activations
    from flows.api.running import run
    from flows.api.saes import load, save
    from flows.api.splicing import spliced
    from flows.api.tables import examples, latents
    from flows.api.training import Trained, train
    from flows.pipeline import Result
    from tasks.errors import ArtifactError, InputError, SaemillError
    from tasks.sae.model import SparseAutoencoder

__all__ = [
    "Activations",
    "ArtifactError",
    "InputError",
    "Result",
    "SaemillError",
    "SparseAutoencoder",
    "Trained",
    "activations",
    "examples",
    "latents",
    "load",
    "run",
    "save",
    "spliced",
    "train",
]

_HOMES = {
    "Activations": "flows.api.activations",
    "ArtifactError": "tasks.errors",
    "InputError": "tasks.errors",
    "Result": "flows.pipeline",
    "SaemillError": "tasks.errors",
    "SparseAutoencoder": "tasks.sae.model",
    "Trained": "flows.api.training",
    "activations": "flows.api.activations",
    "examples": "flows.api.tables",
    "latents": "flows.api.tables",
    "load": "flows.api.saes",
    "run": "flows.api.running",
    "save": "flows.api.saes",
    "spliced": "flows.api.splicing",
    "train": "flows.api.training",
}

claim("tasks", "flows")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes a while

        return version("saemill")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
