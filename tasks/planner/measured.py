"""What a probe found of this machine, kept in the user's cache folder under a hash of all that it depends on."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.storage.artifacts import parse_json, recipe_hash, to_json
from tasks.storage.local import LocalStore

VERSION = 1
"""Raised when a probe comes to measure something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Speeds of this machine at one configuration."""

    at: float
    """When, in seconds since the epoch."""
    seconds: float
    """That the probe took."""
    processes: int
    """That were at work at once."""
    start_seconds: float
    """Until the last of them had imported all and loaded the model."""
    flop_per_second: float | None
    """Of the model up to the hook, all processes together; None: there is no model."""
    step_seconds: float
    """Of a training step, by all of its workers."""
    product_flop_per_second: float
    """Of the encoder's bare product in one process."""
    write_bytes_per_second: float
    """Of one shard to the storage."""
    read_bytes_per_second: float
    tokenizer_seconds: float = 0.0
    """Until the tokenizer is loaded."""
    token_seconds: float | None = None
    """Of a token that is counted; None: there is no text."""

    @property
    def age(self) -> float:
        """Seconds since then."""
        return max(0.0, time.time() - self.at)


def cache_folder() -> Path:
    """Of this user, for saemill: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return Path(home if os.path.isabs(home) else Path.home() / ".cache", "saemill")


def keep(kind: str, depends_on: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Put a value into the cache, whole or not at all; where nothing can be written there, it is not kept.

    Args:
        kind: what it is, such as "probe".
        depends_on: all that the value depends on, as JSON.
        value: JSON.
    """
    try:
        _store(kind).put(_name(depends_on), to_json(value))
    except Exception:  # a full disk or a read-only home is no reason to stop
        return


def kept(kind: str, depends_on: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was kept for exactly this; None where there is nothing, or what is there cannot be read."""
    try:
        found = parse_json(_store(kind).get(_name(depends_on)))
    except Exception:  # whatever is wrong with a cache, the value can be found again
        return None
    return found if isinstance(found, dict) else None


def keep_measured(depends_on: Mapping[str, Any], measured: Measured) -> None:
    """Keep what a probe found."""
    keep("probe", {"version": VERSION, **depends_on}, asdict(measured))


def kept_measured(depends_on: Mapping[str, Any]) -> Measured | None:
    """What an earlier probe of exactly this found."""
    found = kept("probe", {"version": VERSION, **depends_on})
    try:
        return None if found is None else Measured(**found)
    except TypeError:  # of another version of saemill
        return None


def _store(kind: str) -> LocalStore:
    return LocalStore(str(cache_folder() / kind))


def _name(depends_on: Mapping[str, Any]) -> str:
    return f"{recipe_hash(json.loads(json.dumps(depends_on)))}.json"
