"""Stored configurations by name, so that a run is started with a name and not with a copy of every setting.

A name stands for the YAML file that it has when the run starts: what is edited there by tonight holds tonight.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.config import PipelineConfig, load_config
from tasks.errors import InputError
from tasks.storage.objects import open_store

OFFERED = "SAEMILL_CONFIGURATIONS"
"""Environment variable that tells flow runs the files behind the names, and where relative paths begin (JSON)."""
HOME = Path(__file__).parents[1]
"""This repository, whose ``configs`` are offered where nobody says otherwise, as in a worker's image."""


def offer(paths: Iterable[str]) -> list[str]:
    """Offer these files and all in ``configs/`` to flow runs that this process starts; the names of ``paths``.

    Relative paths in them begin in the current directory, as on the command line.
    """
    here = Path.cwd()
    files = {path.stem: str(path) for path in sorted((here / "configs").glob("*.yaml"))}
    names = []
    for path in paths:
        file = str(here / path)
        names.append(Path(path).stem if files.get(Path(path).stem, file) == file else file)
        files[names[-1]] = file
    os.environ[OFFERED] = json.dumps({"folder": str(here), "files": files})
    return names


def offered() -> dict[str, str]:
    """The files on offer, by name."""
    if OFFERED in os.environ:
        files: dict[str, str] = json.loads(os.environ[OFFERED])["files"]
        return files
    return {path.stem: str(path) for path in sorted((HOME / "configs").glob("*.yaml"))}


def load_stored(name: str, overrides: Sequence[str] = (), storage: str | None = None) -> PipelineConfig:
    """The configuration of this name, or at this path or s3:// URI, with local paths made absolute.

    Raises:
        InputError: there is none, it cannot be read, or names or values in it or in ``overrides`` are wrong.
    """
    with contextlib.chdir(json.loads(os.environ[OFFERED])["folder"] if OFFERED in os.environ else HOME):
        if "://" in name:
            return absolute(_fetched(name, overrides, storage))
        known = offered().get(name)
        if known is None and not name.endswith((".yaml", ".yml")):
            listed = ", ".join(sorted(offered()))
            raise InputError(f"There is no configuration {name!r}. Take one of {listed}, or the path of a YAML file.")
        return absolute(load_config(known or name, overrides, storage))


def absolute(config: PipelineConfig) -> PipelineConfig:
    """The same settings with local paths made absolute: flow runs start in a directory of their own."""
    text = config.text.model_copy(update={"source": _absolute_if_there(config.text.source)})
    activations = config.activations.model_copy(
        update={name: _absolute_if_there(getattr(config.activations, name)) for name in ("source", "labels")}
    )
    storage = config.storage if "://" in config.storage else os.path.abspath(config.storage)
    return config.model_copy(
        update={"storage": storage, "text": text, "activations": activations, "model": config.model.absolute()}
    )


def _absolute_if_there(name: str | None) -> str | None:
    """A hub dataset's name looks like a relative path; what exists, or is a glob in a folder that does, is one."""
    if name is None or "://" in name:
        return name
    fixed = re.split(r"[*?\[]", name, maxsplit=1)[0]
    there = Path(name) if fixed == name else Path(fixed + "x").parent
    return os.path.abspath(name) if there.exists() else name


def _fetched(uri: str, overrides: Sequence[str], storage: str | None) -> PipelineConfig:
    """A configuration from object storage."""
    parent, _, name = uri.rpartition("/")
    try:
        content = open_store(parent).get(name)
    except FileNotFoundError:
        raise InputError(f"There is no configuration at {uri}.") from None
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, name or "empty")
        copy.write_bytes(content)
        try:
            return load_config(copy, overrides, storage)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), uri)) from None
