"""A night on one screen: retrain from the champion, measure both on the same rows, follow the latents, promote, tidy up.

    begin -> pipeline -> version -> verdict -> match -> report -> promotion -> retention -> record -> page -> tell

A night that was killed anywhere ends as if it never had been, and one on which nothing is new does nothing. Prefect's
``nightly`` and ``saemill night`` differ in ``call``, ``do`` and ``tell`` only.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flows.addresses import addresses
from flows.config import PipelineConfig
from flows.events import Tell
from flows.first_weights import begun_from_champion
from flows.night import steps
from flows.night.record import record_of
from flows.night.telling import events_of
from flows.night.tonight import Night, Outcome, Tonight
from flows.pipeline import Call, Result, result, run_pipeline
from flows.preflight import check_storage
from flows.registered import now, registered
from flows.resolve import resolved
from tasks.errors import InputError
from tasks.progress import Listener
from tasks.registry.moving import position
from tasks.registry.names import CHAMPION
from tasks.registry.nights import NightDone, Nights
from tasks.registry.registry import Registry
from tasks.storage.artifacts import identity, read_manifest, recipe_hash, require_manifest
from tasks.storage.artifacts import resolve as uri_below

Step = Callable[[Listener], Any]
Do = Callable[[str, Step], Any]
"""(name of a step, the step) -> what it gives."""

logger = logging.getLogger("tasks.night")  # below "tasks", whose records are shown


def run_night(config: PipelineConfig, call: Call, do: Do, tell: Tell) -> Night:
    """Do what a night does.

    Args:
        config: its settings, which must name a registry.
        call: is given each stage of the pipeline.
        do: is given each step that comes after it, by its name.
        tell: hears of what happened.

    Raises:
        InputError: the settings, files or machine are not fit for the run.
        ArtifactError: a stored result is damaged.
    """
    began = time.monotonic()
    if config.registry.name is None:
        raise InputError("registry.name is empty: a night needs the name under which its SAEs are versions.")
    registry = Registry.at(config.storage, config.registry.name)
    check_storage(config.storage)
    if config.gates.activations is not None:
        require_manifest(config.gates.activations)  # before hours of training
    at_first = position(registry, CHAMPION)
    champion_now = None if at_first is None else (at_first.move.version, at_first.number)
    number, begun = Nights(registry).begin(work_of(config), champion_now, now())
    champion = None if begun.champion is None else registry.uri_of(registry.version(begun.champion))
    given = begun_from_champion(config, champion)
    if (done := Nights(registry).done.get(number)) is not None:
        logger.info("nothing is new since %s@%d was trained, on %s", registry.name, done.version, f"{done.when:%Y-%m-%d}")
        write_history(registry)  # a kill may have come before
        return Night(registry, done, _result(given, registry, done), False)
    run_pipeline(given, call, until="score")  # as given: it tells what was left to it
    config = resolved(given)
    at = addresses(config)
    version = registered(config, at)
    assert version is not None  # the registry has a name
    tonight = Tonight(config, at, registry, number, begun, int(version.rpartition("@")[2]))
    done = record_of(tonight, _after_training(tonight, call, do, began))
    for event in events_of(registry, done):  # before it is recorded: a kill in between tells twice, and not never
        tell(event)
    done = Nights(registry).finish(number, done)
    write_history(registry)
    return Night(registry, done, _result(given, registry, done), True)


def _after_training(tonight: Tonight, call: Call, do: Do, began: float) -> Outcome:
    gated = do("gate", lambda listener: steps.gate(tonight, listener))
    matched = do("match", lambda _: steps.match(tonight))
    report = steps.report(tonight, matched)
    call(report)
    promoted = do("promote", lambda _: steps.promoted(tonight, gated))
    swept = do("retain", lambda _: steps.retained(tonight))
    seconds = time.monotonic() - began
    return Outcome(gated=gated, matched=matched, report=report.out, promoted=promoted, swept=swept, seconds=seconds)


def work_of(config: PipelineConfig) -> str:
    """A hash of all that decides a night's SAE but for the champion: the text, the model and the settings."""
    train = config.train
    warm = [] if train.init_from is None else [train.init_from, train.init_lr_factor, train.init_warmup_fraction]
    return recipe_hash({"sae": identity(addresses(begun_from_champion(config, None)).sae), "warm": warm})


def write_history(registry: Registry) -> None:
    """Write the page of all nights anew."""
    from tasks.report.history import write

    nights = [_shown(done, registry) for _, done in Nights(registry).done.all()]
    write(registry.name, _champion(registry), nights, registry.root)


def _shown(done: NightDone, registry: Registry) -> dict[str, Any]:
    """A night as the page has it: without links to reports that are gone."""
    there = read_manifest(uri_below(done.report, registry.root)) is not None
    return done.model_dump(mode="json") | ({} if there else {"report": None})


def _champion(registry: Registry) -> int | None:
    found = position(registry, CHAMPION)
    return None if found is None else found.move.version


def _result(config: PipelineConfig, registry: Registry, done: NightDone) -> Result:
    """The run's results, with the report in which lines of descent stand."""
    found = result(config, addresses(config))
    by_result = {**found.by_result, "report": uri_below(done.report, registry.root)}
    return replace(found, version=f"{registry.name}@{done.version}", by_result=by_result)
