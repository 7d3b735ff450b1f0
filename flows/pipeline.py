"""The whole pipeline on one screen: which stage reads what, writes what, and in which order.

    text -> tokens -> activations -> SAE -> scores -> report        (own activations enter at the second arrow)

The same function runs plainly (``flows.cli``) and as a Prefect flow (``flows.on_prefect``): only ``call`` differs.
Stages are imported when they run, so that this module, the CLI and Prefect's workers start without torch and Ray.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tasks.addresses import Addresses, addresses
from tasks.artifacts import read_json, read_manifest
from tasks.config import PipelineConfig
from tasks.preflight import check
from tasks.progress import Listener
from tasks.resolve import resolved_and_why

logger = logging.getLogger("tasks.pipeline")  # below "tasks", whose records are shown

StageName = Literal["tokenize", "harvest", "train", "score", "report"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One arrow of the pipeline."""

    name: StageName
    writes: str
    """The field of ``Addresses`` at which its result lies."""
    work: Callable[[PipelineConfig, Addresses, Listener], None]

    def run(self, config: PipelineConfig, at: Addresses, listener: Listener) -> None:
        """Make the result, or do nothing where it is finished."""
        try:
            self.work(config, at, listener)
        except SystemError as error:
            # What a signal handler raises while Ray waits in C++ arrives as the cause of a SystemError (ray 2.60), which
            # Prefect would take for a failure and try the stage again rather than cancel the run.
            if error.__cause__ is None or isinstance(error.__cause__, Exception):
                raise
            raise error.__cause__ from None

    def out(self, at: Addresses) -> str:
        """URI of the result."""
        uri: str = getattr(at, self.writes)
        return uri

    def finished(self, at: Addresses) -> bool:
        """Whether the result is there, whole."""
        return read_manifest(self.out(at)) is not None


@dataclass(frozen=True, slots=True)
class Result:
    """URIs of the finished results (None: not made) and the figures that sum them up."""

    tokens: str | None
    activations: str | None
    sae: str | None
    scores: str | None
    report: str | None
    summary: dict[str, Any]
    """The content of scores/summary.json, and ``tokens_per_second`` of harvest and training."""


Call = Callable[[Stage, PipelineConfig, Addresses], None]


def run_pipeline(config: PipelineConfig, call: Call, until: StageName = "report") -> Result:
    """Run the stages up to ``until`` in order; each is given to ``call``, finished or not, and does nothing if finished.

    Raises:
        InputError: the settings, files or machine are not fit for the run; nothing was written.
        ArtifactError: a stored result is damaged.
    """
    config, precision = resolved_and_why(config)
    check(config)
    if precision is not None:  # only now: what is refused is refused in one line
        logger.info("%s", precision)
    at = addresses(config)
    for stage in stages(config, until):
        call(stage, config, at)
    return result(config, at)


def stages(config: PipelineConfig, until: StageName = "report") -> list[Stage]:
    """The stages that lead to ``until``, which for activations of the user's own begin with their ingestion."""
    if config.activations.source is not None:
        chain = [Stage("harvest", "activations", _ingest)]
    else:
        chain = [Stage("tokenize", "tokens", _tokenize), Stage("harvest", "activations", _harvest)]
    chain += [Stage("train", "sae", _train), Stage("score", "scores", _score), Stage("report", "report", _report)]
    names = [stage.name for stage in chain]
    return chain[: names.index(until) + 1]


def result(config: PipelineConfig, at: Addresses) -> Result:
    """What is finished by now.

    Raises:
        ArtifactError: a manifest or a summary is damaged.
    """
    done = {stage.writes: stage.out(at) for stage in stages(config) if stage.finished(at)}
    summary = read_json(done["scores"], "summary.json") if "scores" in done else None
    rates = {"harvest": _rate(done.get("activations")), "training": _rate(done.get("sae"))}
    return Result(
        tokens=done.get("tokens"),
        activations=done.get("activations"),
        sae=done.get("sae"),
        scores=done.get("scores"),
        report=done.get("report"),
        summary={**(summary or {}), "tokens_per_second": rates},
    )


def _rate(uri: str | None) -> float | None:
    timings = read_json(uri, "run.json") if uri else None
    return timings.get("tokens_per_second") if timings else None


def _tokenize(config: PipelineConfig, at: Addresses, listener: Listener) -> None:
    from tasks.text.tokenize import tokenize

    assert at.tokens is not None  # only own activations have none, and they are ingested
    tokenize(config, at.tokens, listener)


def _harvest(config: PipelineConfig, at: Addresses, listener: Listener) -> None:
    from tasks.harvest.on_ray import harvest

    assert at.tokens is not None
    harvest(config, at.tokens, at.shards, at.activations, listener)


def _ingest(config: PipelineConfig, at: Addresses, listener: Listener) -> None:
    from tasks.harvest.ingest import ingest

    ingest(config, at.activations, listener)


def _train(config: PipelineConfig, at: Addresses, listener: Listener) -> None:
    from tasks.harvest.hygiene import warn
    from tasks.train.on_ray import train

    if read_manifest(at.sae) is None:
        for hook in config.hooks:
            warn(at.activations, hook)
    train(config, at.activations, at.sae, listener, at.tokens)


def _score(config: PipelineConfig, at: Addresses, listener: Listener) -> None:
    from tasks.score.on_ray import score

    score(config, at.tokens, at.activations, at.sae, at.scores, listener)


def _report(config: PipelineConfig, at: Addresses, listener: Listener) -> None:
    from tasks.report.render import render

    render(config, at.tokens, at.activations, at.sae, at.scores, at.report)
