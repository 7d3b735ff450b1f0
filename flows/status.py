"""Which results of a configuration exist, and how far a running or killed one is."""

import re
from dataclasses import dataclass
from typing import Literal

from flows.pipeline import Stage, stages
from tasks.addresses import Addresses, addresses
from tasks.artifacts import read_manifest
from tasks.config import PipelineConfig
from tasks.harvest.shards import committed, planned_shards
from tasks.preflight import check_reachable
from tasks.store.objects import ObjectStore, open_store


@dataclass(frozen=True, slots=True)
class StageStatus:
    """How far one stage is."""

    result: str
    """The key under which ``saemill run --json`` names the result."""
    uri: str
    state: Literal["finished", "unfinished", "absent"]
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    """What ``done`` and ``total`` count."""


def status_of(config: PipelineConfig) -> list[StageStatus]:
    """The stages' states, in order; writes nothing.

    Raises:
        InputError: the corpus, the model or the storage cannot be read.
        ArtifactError: a manifest is damaged.
    """
    check_reachable(config)
    return status_at(config, addresses(config))


def status_at(config: PipelineConfig, at: Addresses) -> list[StageStatus]:
    """The same where the addresses are known.

    Raises:
        ArtifactError: a manifest is damaged.
    """
    return [_status(stage, config, at) for stage in stages(config)]


def describe_status(status: StageStatus) -> str:
    """One line, such as 'activations  unfinished  3/14 shards   runs/activations/demo-0123456789ab'."""
    total = "?" if status.total is None else f"{status.total:,}"
    counted = "" if status.done is None else f"{status.done:,}/{total} {status.unit}"
    return f"{status.result:<12} {status.state:<11} {counted:<26} {status.uri}"


def _status(stage: Stage, config: PipelineConfig, at: Addresses) -> StageStatus:
    uri = stage.out(at)
    if stage.finished(at):
        return StageStatus(stage.writes, uri, "finished")
    store = open_store(uri)
    if stage.writes == "activations":
        return _harvest_status(stage, config, at)
    if next(store.list(), None) is None:
        return StageStatus(stage.writes, uri, "absent")
    if stage.writes == "sae":
        done = _checkpointed_steps(store) * config.train.batch_tokens
        return StageStatus(stage.writes, uri, "unfinished", done, config.train.tokens, "tokens")
    return StageStatus(stage.writes, uri, "unfinished")


def _harvest_status(stage: Stage, config: PipelineConfig, at: Addresses) -> StageStatus:
    """Shards of this corpus that are there, be they of its own harvest or of an earlier one.

    How many there are to be is unknown for activations of the user's own, whose rows are counted in ingestion.
    """
    uri, there = stage.out(at), committed(at.shards)
    total = None
    if at.tokens is not None and read_manifest(at.tokens) is not None:
        wanted = {shard.commit_key for shard in planned_shards(at.tokens, config.harvest.shard_tokens)}
        total, there = len(wanted), there & wanted
    elif at.tokens is not None:
        there = set()
    state: Literal["unfinished", "absent"] = "unfinished" if there else "absent"
    if state == "absent":
        return StageStatus(stage.writes, uri, state)
    return StageStatus(stage.writes, uri, state, len(there), total, "shards")


def _checkpointed_steps(store: ObjectStore) -> int:
    """The step of the last checkpoint on storage, 0 where there is none."""
    names = (re.search(r"step[-_](\d+)", info.key) for info in store.list("checkpoints/"))
    return max((int(name.group(1)) for name in names if name), default=0)
