"""Where a subject model's files are, and what identifies their content."""

import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HTTPError, RevisionResolutionError  # type: ignore[attr-defined]  # HTTPError is imported there

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.gguf import check_gguf
from tasks.storage.hashed import file_sha256

# What decides how a local folder's model behaves; never pickles, which are not loaded either.
_IDENTIFYING = ("*.safetensors", "*.gguf", "*.json", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where transformers finds a model: a local folder or a hub id, and in it perhaps a GGUF file."""

    location: str
    gguf: str | None = None
    revision: str | None = None
    """Commit of a hub model, so that all of its files come from the same state."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that every ``from_pretrained`` takes beside the location."""
        named = {"revision": self.revision, "gguf_file": self.gguf}
        return {name: value for name, value in named.items() if value is not None}


def resolve(config: ModelConfig) -> ModelFiles:
    """Find the model: a .gguf file, a local folder, an installed package that carries one .gguf, or a hub id.

    Raises:
        InputError: none of the four holds a model of that name, or a GGUF file is damaged.
    """
    path = config.path
    if path is not None and path.is_dir():
        return _folder(path)
    if path is not None and path.suffix == ".gguf":
        return _gguf(path)
    if config.name.endswith(".gguf"):
        raise InputError(f"model.name is {config.name!r}, but there is no such file.")
    folder = _package_folder(config.name)
    if folder is not None:
        found = sorted(folder.rglob("*.gguf"))
        if len(found) == 1:
            return _gguf(found[0])
        if found:
            raise InputError(f"Package {config.name!r} carries several .gguf files; name one: {_listed(found)}.")
    return _hub(config.name, config.revision)


def model_identity(config: ModelConfig) -> str:
    """What changes when the model does: a hash of its local files' content, or the hub commit.

    Raises:
        InputError: there is no such model, or a file of it may not be read.
    """
    files = resolve(config)
    if files.revision is not None:
        return f"{files.location}@{files.revision}"
    folder = Path(files.location)
    paths = [folder / files.gguf] if files.gguf else [p for pattern in _IDENTIFYING for p in folder.glob(pattern)]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name} {file_sha256(path, 'model.name')}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _gguf(path: Path) -> ModelFiles:
    check_gguf(path)
    return ModelFiles(str(path.parent.resolve()), gguf=path.name)


def _folder(path: Path) -> ModelFiles:
    if (path / "config.json").is_file():
        return ModelFiles(str(path.resolve()))
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        return _gguf(found[0])
    if found:
        raise InputError(f"model.name is the folder {path}, which holds several .gguf files; name one: {_listed(found)}.")
    raise InputError(f"model.name is the folder {path}, but it holds neither a config.json nor a .gguf file.")


def _package_folder(name: str) -> Path | None:
    """Folder of an installed package, found without importing it: its own dependencies may not be installed."""
    module = name.replace("-", "_")
    try:
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
    except ValueError:  # __main__ and others that run without one
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


@functools.lru_cache(maxsize=8)
def _hub(name: str, revision: str | None) -> ModelFiles:
    try:
        found = huggingface_hub.HfApi().resolve_revision(name, revision=revision)  # from the local cache where offline
    except (RevisionResolutionError, HTTPError, OSError, ValueError, RuntimeError) as error:
        raise InputError(_no_such_model(name, revision, error)) from None
    return ModelFiles(name, revision=found.resolved)


def _no_such_model(name: str, revision: str | None, error: Exception) -> str:
    at = f" (revision {revision})" if revision else ""
    reason = " ".join(str(error).split()).rstrip(".")
    return (
        f"No model {name!r}{at}: it is not a .gguf file, not a local folder, not an installed package that carries a "
        f".gguf, and the Hugging Face hub did not give it ({reason})."
    )


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)
