"""What runs took, beside what was planned: a small file each below the storage, from which the next run is foretold.

A file is created whole and once, after the run's last stage. A run that is killed before has none.
"""

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.errors import SaemillError
from tasks.planner.needs import StageName
from tasks.planner.sizes import CorpusSize, RowsSize, RunSize, ScoringSize, TrainingSize
from tasks.storage.artifacts import read_json, to_json
from tasks.storage.objects import open_store

FOLDER = "accounts"
VERSION = 1
_MOST_READ = 16
"""Of the newest."""

Key = Mapping[str, Any]
Keys = Mapping[StageName, Key]
"""By stage, what has to be the same for its speed to be the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageAccount:
    """What one stage took that was done from its begin to its end."""

    seconds: float
    fixed: float
    """Of those, what did not depend on how much there was to do, such as starting processes."""
    bytes: int
    """That it left on storage."""
    key: Key


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What one run took."""

    at: str
    """When it ended, such as '2026-11-27 21:00'."""
    name: str
    planned_seconds: float | None
    """None: nothing was known that could tell."""
    planned_bytes: int
    seconds: float
    begin_seconds: float
    """Of those, until the first stage began."""
    bytes: int
    stages: Mapping[StageName, StageAccount]
    hooks: list[str] | None
    """Up to which the model ran; None: there was no model."""
    size: RunSize
    """Without that of the model, which follows from its hooks."""


def write_account(root: str, account: Account) -> str:
    """Keep an account below a storage root, under a name of its own that sorts by time; its URI."""
    store = open_store(f"{root.rstrip('/')}/{FOLDER}")
    key = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
    store.put_if_absent(key, to_json({"version": VERSION, **asdict(account)}))
    return f"{store.uri}/{key}"


def read_accounts(root: str) -> list[Account]:
    """Those of the last runs below a storage root, the newest first; what cannot be read is passed over."""
    uri = f"{root.rstrip('/')}/{FOLDER}"
    keys = sorted((info.key for info in open_store(uri).list() if info.key.endswith(".json")), reverse=True)
    return [account for key in keys[:_MOST_READ] if (account := _read(uri, key)) is not None]


def _read(uri: str, key: str) -> Account | None:
    try:
        found = read_json(uri, key)
        return None if found is None or found.pop("version") != VERSION else _account(found)
    except (SaemillError, KeyError, TypeError, AttributeError):  # damaged, or of another version
        return None


def _account(found: dict[str, Any]) -> Account:
    stages = {stage: StageAccount(**done) for stage, done in found.pop("stages").items()}
    return Account(stages=stages, size=_size(found.pop("size")), **found)


def _size(found: dict[str, Any]) -> RunSize:
    corpus = found.pop("corpus")
    return RunSize(
        corpus=None if corpus is None else CorpusSize(**corpus),
        rows=RowsSize(**found.pop("rows")),
        training=TrainingSize(**found.pop("training")),
        scoring=ScoringSize(**found.pop("scoring")),
        model=None,
        **{name: value for name, value in found.items() if name != "model"},
    )
