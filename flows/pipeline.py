"""The whole pipeline on one screen: check, place the stages (``flows.stages``), and run one after the other.

    text -> tokens -> activations -> SAE -> scores -> report        (own activations enter at the second arrow)

The same function runs plainly (``flows.cli``) and as a Prefect flow (``flows.on_prefect``): only ``call`` differs.
What a stage does is imported when it runs, so that this module, the CLI and Prefect's workers start without torch and Ray.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flows.addresses import Addresses, Placed, addresses, placed
from flows.config import PipelineConfig
from flows.preflight import check
from flows.resolve import resolved_and_why
from tasks.storage.artifacts import read_json

logger = logging.getLogger("tasks.pipeline")  # below "tasks", whose records are shown

StageName = Literal["tokenize", "harvest", "train", "score", "report"]


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


Call = Callable[[Placed], None]


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
    for stage in up_to(until, placed(config, at)):
        call(stage)
    return result(config, at)


def up_to(until: StageName, chain: Sequence[Placed]) -> Sequence[Placed]:
    """The stages that lead to ``until``."""
    names = [stage.name for stage in chain]
    return chain[: names.index(until) + 1]


def result(config: PipelineConfig, at: Addresses) -> Result:
    """What is finished by now.

    Raises:
        ArtifactError: a manifest or a summary is damaged.
    """
    done = {stage.result: stage.out for stage in placed(config, at) if stage.finished}
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
