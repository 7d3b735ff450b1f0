"""Which results of a configuration exist, and how far a running or killed one is."""

from dataclasses import dataclass
from typing import Literal

from flows.addresses import Addresses, Placed, addresses, placed
from flows.config import PipelineConfig
from flows.preflight import check_reachable


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
    return [_status(stage) for stage in placed(config, at)]


def describe_status(status: StageStatus) -> str:
    """One line, such as 'activations  unfinished  3/14 shards   runs/activations/demo-0123456789ab'."""
    total = "?" if status.total is None else f"{status.total:,}"
    counted = "" if status.done is None else f"{status.done:,}/{total} {status.unit}"
    return f"{status.result:<12} {status.state:<11} {counted:<26} {status.uri}"


def _status(stage: Placed) -> StageStatus:
    if stage.finished:
        return StageStatus(stage.result, stage.out, "finished")
    part = stage.stage.progress(stage.out)
    if part is None:
        return StageStatus(stage.result, stage.out, "absent")
    return StageStatus(stage.result, stage.out, "unfinished", part.done, part.total, part.unit)
